//go:build e2e

package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// GitServer is a private git server, a party of its own: it knows the token,
// and nobody in the world but owners is told.
type GitServer struct {
	world *World
	dir   string
	port  string
	cmd   *exec.Cmd
	out   *os.File

	Token string // what owners need
	CA    string // file with the CA's certificate
}

// hostName is how instances call the machine.
const hostName = "host.cupel.internal"

// gitServer builds the program once for all worlds.
var gitServer = sync.OnceValues(func() (string, error) {

	program := filepath.Join(source(), ".cache", "e2e", "gitserver")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", program, "./examples/gitserver")
	build.Dir = source()
	build.Env = append(os.Environ(), "CGO_ENABLED=0")

	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the git server: %w: %s", err, out)
	}
	return program, nil
})

// startGit makes a git server with a token and an empty folder of repositories.
func startGit(w *World) *GitServer {
	w.T.Helper()

	raw := make([]byte, 24)
	_, _ = rand.Read(raw)
	g := &GitServer{world: w, dir: filepath.Join(w.Dir, "git"), Token: "tok-" + hex.EncodeToString(raw)}

	w.must(os.MkdirAll(filepath.Join(g.dir, "repositories"), 0o755))
	w.must(os.WriteFile(filepath.Join(g.dir, "token"), []byte(g.Token), 0o600))
	g.CA = filepath.Join(g.dir, "tls", "ca.pem")

	program := filepath.Join(g.dir, "gitserver")
	built, err := gitServer()
	w.must(err)
	w.must(copyFile(built, program))
	w.must(os.Chmod(program, 0o755))

	g.start()
	return g
}

// start runs the server on a free port, and waits until it serves.
func (g *GitServer) start() {
	w := g.world
	w.T.Helper()

	address := filepath.Join(g.dir, "address")
	_ = os.Remove(address)
	var err error
	g.out, err = os.OpenFile(filepath.Join(g.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	w.must(err)

	g.cmd = exec.Command(filepath.Join(g.dir, "gitserver"),
		"--repositories", filepath.Join(g.dir, "repositories"), "--tls", filepath.Join(g.dir, "tls"),
		"--token-file", filepath.Join(g.dir, "token"), "--listen", "0.0.0.0:0",
		"--names", hostName+",localhost,127.0.0.1", "--address-file", address)

	g.cmd.Stdout = g.out
	g.cmd.Stderr = g.out
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}

	w.must(g.cmd.Start())
	w.must(os.WriteFile(filepath.Join(g.dir, "pid"), []byte(strconv.Itoa(g.cmd.Process.Pid)), 0o600))

	w.Eventually(20*time.Second, func() error {
		data, err := os.ReadFile(address)
		if err == nil {
			_, g.port, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(data)), "[::]"), ":")
		}
		return err
	})
}

// stop ends the server, if it runs.
func (g *GitServer) stop() {
	if g.cmd == nil {
		return
	}
	_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
	_ = g.cmd.Wait()
	_ = g.out.Close()
	g.cmd = nil
}

// Pause keeps the server from answering, with connections open, until Resume.
func (g *GitServer) Pause() { g.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (g *GitServer) Resume() { g.signal(syscall.SIGCONT) }

// signal sends a signal to all processes of the server.
func (g *GitServer) signal(sig syscall.Signal) {
	g.world.T.Helper()
	g.world.must(syscall.Kill(-g.cmd.Process.Pid, sig))
}

// URL is the repository's address as instances see it.
func (g *GitServer) URL(repository string) string {
	return fmt.Sprintf("https://%s:%s/%s.git", hostName, g.port, repository)
}

// Push makes files (path -> content) the content of the repository, which is
// made if there is none, and returns the commit.
func (g *GitServer) Push(repository string, files map[string]string) string {
	w := g.world
	w.T.Helper()
	bare := filepath.Join(g.dir, "repositories", repository+".git")
	if _, err := os.Stat(bare); err != nil {
		g.git(g.dir, "init", "-q", "--bare", "-b", "main", bare)
	}

	work, err := os.MkdirTemp(g.dir, "push-")
	w.must(err)
	defer func() { _ = os.RemoveAll(work) }()

	g.git(work, "init", "-q", "-b", "main")

	local := bare // the owner's push over HTTPS is the git server's own test
	if out := g.git(work, "ls-remote", local, "refs/heads/main"); out != "" {
		g.git(work, "fetch", "-q", local, "main")
		g.git(work, "reset", "-q", "--hard", "FETCH_HEAD")
		g.git(work, "rm", "-q", "-r", "--ignore-unmatch", ".")
	}

	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(work, name)
		w.must(os.MkdirAll(filepath.Dir(path), 0o755))
		w.must(os.WriteFile(path, []byte(files[name]), 0o644))
	}

	g.git(work, "add", "-A")
	g.git(work, "commit", "-q", "--allow-empty", "-m", "state")
	g.git(work, "push", "-q", local, "HEAD:main")

	return strings.TrimSpace(g.git(work, "rev-parse", "HEAD"))
}

// git runs git in a folder, and returns what it prints.
func (g *GitServer) git(dir string, args ...string) string {
	g.world.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Owner", "GIT_AUTHOR_EMAIL=owner@example.com", "GIT_COMMITTER_NAME=Owner", "GIT_COMMITTER_EMAIL=owner@example.com",
	}

	var out, errs bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = &errs

	if err := cmd.Run(); err != nil {
		g.world.T.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, errs.Bytes())
	}

	return out.String()
}
