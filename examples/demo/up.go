package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// up walks the road of the README.
func (d *demo) up(ctx context.Context) error {
	begin := time.Now()
	for _, step := range []func(context.Context) error{
		d.host, d.push, d.operate, d.vouch, d.attest, d.createSession, d.deploy, d.use, d.refuse,
	} {
		if err := step(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return errors.New("interrupted")
		}
	}

	d.title("That was the whole road, in %s.", time.Since(begin).Round(100*time.Millisecond))
	d.say("The operator ran everything and saw neither the token, nor the code, nor a key.")
	d.say("On this machine the hardware is simulated: real evidence, under a root that was made here.")
	d.reach()
	return nil
}

// host starts the private git server, a stranger to everything that follows.
func (d *demo) host(ctx context.Context) error {
	d.title("A git server with a private repository. Only the owner has its token.")
	if d.note("token") == "" {
		raw := make([]byte, 24)
		_, _ = rand.Read(raw)
		if err := d.setNote("token", "demo-token-"+hex.EncodeToString(raw)); err != nil {
			return err
		}
	}

	if err := d.git.write("token", []byte(d.note("token"))); err != nil {
		return err
	}

	if err := d.owner.write("token", []byte(d.note("token"))); err != nil {
		return err
	}

	bare := filepath.Join(d.git.dir, "repositories", "app.git")
	if !exists(bare) {
		if err := d.git.run(ctx, "git", "init", "--quiet", "--bare", "--initial-branch", "main", bare); err != nil {
			return err
		}
	}

	if d.serverRuns() {
		d.say("(it runs already)")
	} else if err := d.startServer(ctx); err != nil {
		return err
	}

	ca, err := os.ReadFile(filepath.Join(d.git.dir, "tls", "ca.pem"))
	if err != nil {
		return err
	}

	return d.owner.write("git-ca.pem", ca)
}

// startServer starts the git server, and waits until it says where it listens.
func (d *demo) startServer(ctx context.Context) error {
	port := d.note("git-port")
	if port == "" {
		port = "0"
	}
	address := filepath.Join(d.git.dir, "address")

	_ = os.Remove(address)

	args := []string{"gitserver", "--repositories", "repositories", "--tls", "tls", "--token-file", "token",
		"--listen", "0.0.0.0:" + port, "--names", hostName + ",localhost", "--address-file", "address"}

	d.git.show(args, " &")

	log, err := os.OpenFile(filepath.Join(d.git.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()

	cmd := d.git.command(context.WithoutCancel(ctx), args...)
	cmd.Stdout = log
	cmd.Stderr = log
	cmd.SysProcAttr.Setpgid = false
	cmd.SysProcAttr.Setsid = true // it outlives this program

	if err := cmd.Start(); err != nil {
		return err
	}

	if err := d.setNote("git-pid", strconv.Itoa(cmd.Process.Pid)); err != nil {
		return err
	}

	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	for {
		if data, err := os.ReadFile(address); err == nil {
			_, port, err := net.SplitHostPort(strings.TrimSpace(string(data)))
			if err != nil {
				return err
			}
			return d.setNote("git-port", port)
		}

		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return errors.Join(fmt.Errorf("the git server ended: see %s", log.Name()), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// push brings the app into the repository, as its owner would.
func (d *demo) push(ctx context.Context) error {
	d.title("The owner pushes the app there.")
	work := filepath.Join(d.owner.dir, "app")
	first := !exists(filepath.Join(work, ".git"))

	files, err := filepath.Glob(filepath.Join(d.app, "*.py"))
	if err != nil {
		return err
	}

	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := d.owner.write(filepath.Join("app", filepath.Base(f)), data); err != nil {
			return err
		}
	}

	if err := os.Chown(work, nobody, nobody); err != nil {
		return err
	}

	// The token is read from a file by a helper: it is in no command line.
	p := *d.owner
	p.env = append(p.env[:len(p.env):len(p.env)], "GIT_SSL_CAINFO="+filepath.Join(p.dir, "git-ca.pem"), "GIT_TERMINAL_PROMPT=0")

	if first {
		for _, args := range [][]string{
			{"git", "init", "--quiet", "--initial-branch", "main", "app"},
			{"git", "-C", "app", "config", "user.name", "Owner"},
			{"git", "-C", "app", "config", "user.email", "owner@example.com"},
			{"git", "-C", "app", "config", "credential.helper", `!f() { echo username=owner; echo "password=$(cat ` + filepath.Join(p.dir, "token") + `)"; }; f`},
		} {
			if err := p.run(ctx, args...); err != nil {
				return err
			}
		}
	}

	if err := p.run(ctx, "git", "-C", "app", "add", "."); err != nil {
		return err
	}

	if _, err := p.ask(ctx, "git", "-C", "app", "diff", "--cached", "--quiet"); err != nil { // something changed
		if err := p.run(ctx, "git", "-C", "app", "commit", "--quiet", "-m", "The app"); err != nil {
			return err
		}
	}

	return p.run(ctx, "git", "-C", "app", "push", "--quiet", "https://localhost:"+d.note("git-port")+"/app.git", "main")
}

// operate brings up everything that runs containers, and their images.
func (d *demo) operate(ctx context.Context) error {
	d.title("The operator brings up this machine, and builds runtime images from Debian's packages.")

	d.operator.show([]string{"export", "CUPEL_STATE=" + d.state()}, "")

	args := []string{"cupel", "up", "--detach"}
	ports, err := d.ports()
	if err != nil {
		return err
	}

	const runsAlready = 10
	err = d.operator.run(ctx, append(args, ports...)...)
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != runsAlready) {
		return err
	}

	for _, runtime := range []string{"puller", "python"} {
		if err := d.operator.run(ctx, "cupel", "runtime", "build", runtime); err != nil {
			return err
		}
	}

	return nil
}

// ports returns flags for those of the usual ports that somebody else has, the
// same in every run.
func (d *demo) ports() ([]string, error) {
	const chosen = "up-flags"
	if d.noted(chosen) {
		return strings.Fields(d.note(chosen)), nil
	}

	var flags []string
	for _, usual := range []struct{ flag, host, port string }{
		{"--manager-listen", "0.0.0.0", "5000"}, {"--cas-owners", "0.0.0.0", "8081"},
		{"--cas-instances", "0.0.0.0", "18765"}, {"--registry-listen", "127.0.0.1", "5050"},
	} {
		port, err := freePort(usual.port)
		if err != nil {
			return nil, err
		}

		if port != usual.port {
			flags = append(flags, usual.flag, usual.host+":"+port)
		}
	}

	return flags, d.setNote(chosen, strings.Join(flags, " "))
}

// freePort returns the port if it is free on all addresses, else another.
func freePort(port string) (string, error) {
	for _, p := range []string{port, "0"} {
		ln, err := net.Listen("tcp", ":"+p)
		if err != nil {
			continue
		}

		_, free, err := net.SplitHostPort(ln.Addr().String())
		return free, errors.Join(err, ln.Close())
	}
	return "", fmt.Errorf("no free TCP port on this machine")
}

// vouch is the owner's own look at the images.
func (d *demo) vouch(ctx context.Context) error {
	d.title("The owner rebuilds the images from Debian's signed packages, without root, and vouches for what was measured.")

	if d.sessionExists(ctx) {
		d.say("(done before the session was created)")
		return nil
	}

	for _, runtime := range []string{"puller", "python"} {
		if err := d.owner.run(ctx, "cupel", "runtime", "measure", runtime); err != nil {
			return err
		}
	}

	return nil
}

// attest has the CAS prove itself to the owner.
func (d *demo) attest(ctx context.Context) error {
	d.title("The owner attests the CAS: what will keep the secrets has to prove what it is.")

	at, err := d.endpoint()
	if err != nil {
		return err
	}

	d.say("Simulated hardware has a root of its own, made on this machine. An owner has to name it; `cupel info` shows it.")
	return d.owner.run(ctx, "cupel", "cas", "attest", at.casAddress, "--trust-simulation", at.Simulation)
}

// endpoint reads where everything is.
func (d *demo) endpoint() (endpoint, error) {
	var at endpoint

	data, err := os.ReadFile(filepath.Join(d.state(), "manager.json"))
	if err != nil {
		return at, err
	}

	if err := json.Unmarshal(data, &at); err != nil {
		return at, err
	}

	_, port, err := net.SplitHostPort(at.CAS.Owners)
	at.casAddress = "localhost:" + port

	return at, err
}

// createSession writes down which code may have which secrets.
func (d *demo) createSession(ctx context.Context) error {
	d.title("The owner takes the operator's template, has it compared with what was asked for, and creates the session.")

	if d.sessionExists(ctx) {
		d.say("(the session %q is there already)", session)
		return d.owner.run(ctx, "cupel", "session", "verify", session)
	}

	if err := d.owner.runTo(ctx, "client-session.yml", "cupel", "template", "--runtime", "python", "--command", command, "--on-renewal", "none", "--simulation"); err != nil {
		return err
	}

	return d.owner.run(ctx, "cupel", "session", "create", "client-session.yml", "--name", session, "--simulation",
		"--runtime", "python", "--command", command, "--on-renewal", "none",
		"-e", "GIT_REPO=https://"+hostName+":"+d.note("git-port")+"/app.git", "-e", "GIT_CA=@git-ca.pem", "-e", "ACCESS_TOKEN=@token")
}

// sessionExists tells whether an earlier run made the session.
func (d *demo) sessionExists(ctx context.Context) bool {
	_, err := d.owner.ask(ctx, "cupel", "session", "read", session)
	return err == nil
}

// deploy hands in the session's name, which is all that the operator gets.
func (d *demo) deploy(ctx context.Context) error {
	d.title("The owner hands in the session's name. The operator gets nothing else.")

	if d.note("port") == "" {
		port, err := freePort("8080")
		if err != nil {
			return err
		}
		if err := d.setNote("port", port); err != nil {
			return err
		}
	}

	if err := d.owner.run(ctx, "cupel", "deploy", session, "--instances", "3", "--memory", "256M", "--port", d.note("port")); err != nil {
		return err
	}

	if err := d.owner.run(ctx, "cupel", "verify", session); err != nil {
		return err
	}

	return d.owner.run(ctx, "cupel", "ps")
}

// use is what a user of the app does, with the CA that the owner published.
func (d *demo) use(ctx context.Context) error {
	d.title("A user of the app checks its certificate with the CA that the owner's session made.")

	if err := d.owner.runTo(ctx, "app-ca.pem", "cupel", "session", "values", session, "app_ca"); err != nil {
		return err
	}

	ca, err := os.ReadFile(filepath.Join(d.owner.dir, "app-ca.pem"))
	if err != nil {
		return err
	}

	if err := d.user.write("app-ca.pem", ca); err != nil {
		return err
	}

	if _, err := exec.LookPath("curl"); err != nil {
		return fmt.Errorf("curl is not installed: %w", err)
	}

	return d.user.run(ctx, "curl", "--silent", "--show-error", "--fail", "--max-time", "20", "--cacert", "app-ca.pem", "https://localhost:"+d.note("port")+"/")
}
