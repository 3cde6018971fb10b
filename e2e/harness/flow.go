//go:build e2e

package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cupel.dev/cupel/client/manager"
)

// AppCommand is how the app of the examples is started.
const AppCommand = "python3 /home/client-app/repo/client-app.py"

// BuildRuntimes has the operator build runtime images. Downloads and locks are
// kept between tests, below .cache of the source tree.
func (w *World) BuildRuntimes(names ...string) {
	w.T.Helper()
	shared := filepath.Join(source(), ".cache", "e2e")
	cache := filepath.Join(w.State, "runtimes", "cache")
	linkAll(filepath.Join(shared, "blobs"), cache)
	for _, name := range names {
		definition := filepath.Join(w.Runtimes, name+".yml")
		text, err := os.ReadFile(definition)
		w.must(err)
		sum := sha256.Sum256(text) // a lock is for one text of its definition
		kept := filepath.Join(shared, "locks", name+"-"+hex.EncodeToString(sum[:8])+".lock")
		if _, err := os.Stat(w.Lock(name)); err != nil {
			_ = copyFile(kept, w.Lock(name))
		}
		w.Operator.MustRun("runtime", "build", name, "--definition", definition, "--lock", w.Lock(name))
		w.must(os.MkdirAll(filepath.Dir(kept), 0o755))
		w.must(copyFile(w.Lock(name), kept))
	}
	linkAll(cache, filepath.Join(shared, "blobs"))
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// Lock is the lock file of a runtime image.
func (w *World) Lock(runtime string) string { return filepath.Join(w.Runtimes, runtime+".lock") }

// linkAll gives a folder the files of another that it lacks. It may fail: what
// is missing is downloaded.
func linkAll(from, to string) {
	files, _ := filepath.Glob(filepath.Join(from, "*"))
	_ = os.MkdirAll(to, 0o755)
	for _, f := range files {
		target := filepath.Join(to, filepath.Base(f))
		if err := os.Link(f, target); err == nil || errors.Is(err, os.ErrExist) {
			continue
		}
		_ = copyFile(f, target)
	}
}

// Vouch has an owner measure runtime images from the operator's sources.
func (p *Party) Vouch(runtimes ...string) {
	p.world.T.Helper()
	for _, name := range runtimes {
		p.MustRun("runtime", "measure", name, "--definition", filepath.Join(p.world.Runtimes, name+".yml"), "--lock", p.world.Lock(name))
	}
}

// SimulationRoot is what an owner has to name: the digest of the simulated
// platform's root on this machine.
func (w *World) SimulationRoot() string { return w.Info().Simulation }

// AttestCAS has an owner attest the CAS and pin it.
func (p *Party) AttestCAS(flags ...string) string {
	p.world.T.Helper()
	return p.MustRun(append([]string{"cas", "attest", p.world.Info().CAS.Owners, "--trust-simulation", p.world.SimulationRoot()}, flags...)...)
}

// SessionArgs are the arguments of `cupel session create` for a repository of
// the git server. The token goes through a file.
func (p *Party) SessionArgs(file, name, repository string) []string {
	return []string{
		"session", "create", file, "--name", name, "--simulation", "--runtime", "python", "--command", AppCommand,
		"-e", "GIT_REPO=" + p.world.Git.URL(repository), "-e", "GIT_CA=@" + p.gitCA(), "-e", "ACCESS_TOKEN=@" + p.WriteFile("token", p.world.Git.Token),
	}
}

// gitCA copies the git server's CA certificate into the party's folder.
func (p *Party) gitCA() string {
	data, err := os.ReadFile(p.world.Git.CA)
	p.world.must(err)
	return p.WriteFile("git-ca.pem", string(data))
}

// Template has the operator's template written into the party's folder.
func (p *Party) Template() string {
	p.world.T.Helper()
	return p.WriteFile("client-session.yml", p.MustRun("template", "--runtime", "python", "--command", AppCommand, "--simulation"))
}

// CreateSession makes a session out of the operator's template.
func (p *Party) CreateSession(name, repository string) {
	p.world.T.Helper()
	p.MustRun(p.SessionArgs(p.Template(), name, repository)...)
}

// Deploy deploys a session and waits until it is done.
func (p *Party) Deploy(session string, instances int, port uint16, flags ...string) string {
	p.world.T.Helper()
	return p.MustRun(append([]string{"deploy", session, "--instances", strconv.Itoa(instances), "--memory", "256M", "--port", strconv.Itoa(int(port))}, flags...)...)
}

// Instances lists what the manager says about the party's instances of an app.
func (p *Party) Instances(app string) []manager.Instance {
	p.world.T.Helper()
	var list manager.InstanceList
	p.MustJSON(&list, "ps", app)
	return list.Instances
}

// Healthy lists the ids of an app's healthy instances.
func (p *Party) Healthy(app string) []string {
	p.world.T.Helper()
	var ids []string
	for _, i := range p.Instances(app) {
		if i.Role == "app" && i.Health == "healthy" {
			ids = append(ids, i.ID)
		}
	}
	return ids
}

// ExpectHealthy is for World.Eventually.
func (p *Party) ExpectHealthy(app string, n int) error {
	if got := p.Healthy(app); len(got) != n {
		return fmt.Errorf("%d healthy instances %v, want %d", len(got), got, n)
	}
	return nil
}

// ExampleApp is the app of the examples, as the files of a repository.
func ExampleApp(w *World) map[string]string {
	w.T.Helper()
	data, err := os.ReadFile(filepath.Join(source(), "examples", "python-app", "client-app.py"))
	w.must(err)
	return map[string]string{"client-app.py": string(data)}
}

// Patch replaces the one place where old stands in a text.
func (w *World) Patch(text, old, replacement string) string {
	w.T.Helper()
	if n := strings.Count(text, old); n != 1 {
		w.T.Fatalf("%q stands in %d places, want one", old, n)
	}
	return strings.Replace(text, old, replacement, 1)
}
