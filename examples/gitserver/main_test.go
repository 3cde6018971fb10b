package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cupel.dev/cupel/internal/testing/need"
)

// lockedBuffer takes the server's log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestPushAndClone(t *testing.T) {
	if _, err := backend(); err != nil {
		need.Missing(t, "git: "+err.Error())
	}
	dir := t.TempDir()
	secret := make([]byte, 16)
	_, _ = rand.Read(secret)
	token := hex.EncodeToString(secret)
	write(t, dir+"/token", token+"\n")
	git(t, dir, "", "init", "-q", "--bare", dir+"/repos/app.git")

	ctx, cancel := context.WithCancel(context.Background())
	var log lockedBuffer
	ended := make(chan error)
	go func() {
		ended <- serve(ctx, options{
			repositories: dir + "/repos", tls: dir + "/tls", tokenFile: dir + "/token",
			listen: "127.0.0.1:0", names: []string{"localhost", "127.0.0.1"}, addressFile: dir + "/address",
		}, slog.New(slog.NewTextHandler(&log, nil)))
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if strings.Contains(log.String(), token) {
			t.Error("the log has the token")
		}
	}()
	url := "https://" + await(t, dir+"/address") + "/app.git"

	work := dir + "/work"
	git(t, dir, "", "init", "-q", "-b", "main", work)
	noise := make([]byte, 3<<20) // more than git sends in one piece
	_, _ = rand.Read(noise)
	write(t, work+"/noise", string(noise))
	git(t, work, "", "add", ".")
	git(t, work, "", "-c", "user.name=Owner", "-c", "user.email=owner@example.com", "commit", "-q", "-m", "first")
	git(t, work, token, "push", "-q", url, "main")
	git(t, dir, token, "clone", "-q", "-b", "main", url, dir+"/clone")
	if got := read(t, dir+"/clone/noise"); got != string(noise) {
		t.Error("the clone differs from what was pushed")
	}
	for _, wrong := range []string{"wrong", token + "x", "none"} {
		if out, err := tryGit(dir, wrong, "clone", "-q", url, dir+"/"+wrong); err == nil {
			t.Errorf("cloned with another token: %s", out)
		}
	}
}

func TestCertificateIsKeptAndRenewed(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	first := certPEM(t, dir, []string{"localhost"}, now)
	if again := certPEM(t, dir, []string{"localhost"}, now.Add(time.Hour)); again != first {
		t.Error("a good certificate was made again")
	}
	named := certPEM(t, dir, []string{"localhost", "other.example"}, now)
	if named == first {
		t.Error("a certificate without the name was kept")
	}
	if late := certPEM(t, dir, []string{"localhost"}, now.Add(lifetime)); late == named {
		t.Error("an expiring certificate was kept")
	}
}

func TestRefusesEmptyToken(t *testing.T) {
	if _, err := newHandler("/bin/true", "/", "", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an empty token opens the server to all")
	}
}

func certPEM(t *testing.T, dir string, names []string, now time.Time) string {
	t.Helper()
	if _, err := certificate(dir, names, now); err != nil {
		t.Fatal(err)
	}
	return read(t, dir+"/cert.pem")
}

// git runs git in dir; it learns the token, if any, from a helper.
func git(t *testing.T, dir, token string, args ...string) {
	t.Helper()
	if out, err := tryGit(dir, token, args...); err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
}

func tryGit(dir, token string, args ...string) ([]byte, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	ca := filepath.Join(dir, "tls/ca.pem")
	if _, err := os.Stat(ca); err != nil {
		ca = filepath.Join(filepath.Dir(dir), "tls/ca.pem")
	}
	cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_SSL_CAINFO="+ca, "TOKEN="+token)
	if token != "" {
		helper := `!f() { echo username=x; echo "password=$TOKEN"; }; f`
		cmd.Args = append([]string{"git", "-c", "credential.helper=" + helper}, args...)
	}
	return cmd.CombinedOutput()
}

func await(t *testing.T, path string) string {
	t.Helper()
	for range 500 {
		if b, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(b))
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not appear", path)
	return ""
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
