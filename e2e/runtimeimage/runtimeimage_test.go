//go:build e2e

// Package runtimeimage holds the promises about runtime images: what is built
// from Debian itself is the same wherever it is built, what runs in it runs,
// and the puller handles a token without ever letting it out.
package runtimeimage

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/build"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/runtimes"
)

// keep is a Registry that unpacks the image into a folder.
type keep struct{ root string }

func (k keep) PushImage(_ context.Context, ref rebuild.Ref, img *rebuild.Image) error {
	if !strings.HasSuffix(string(ref), ":latest") {
		return nil
	}
	r, err := img.OpenLayer()
	if err != nil {
		return err
	}
	defer r.Close()
	return untar(k.root, r)
}
func (keep) PushArtifact(context.Context, rebuild.Ref, []byte, rebuild.Source) error { return nil }
func (keep) Whole(context.Context, rebuild.Ref) (ident.Digest, error) {
	return ident.Digest{}, problem.New(problem.NotFound, "registry_missing", "nothing here")
}
func (keep) Source(rebuild.Ref) (rebuild.Source, error) { return nothing{}, nil }

type nothing struct{}

func (nothing) Open(context.Context, ident.Digest) (io.ReadCloser, error) {
	return nil, problem.New(problem.NotFound, "source_missing", "nothing here")
}

func untar(root string, r io.Reader) error {
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p := filepath.Join(root, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(p, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, p)
		case tar.TypeLink:
			err = os.Link(filepath.Join(root, h.Linkname), p)
		case tar.TypeReg:
			var b []byte
			if b, err = io.ReadAll(t); err == nil {
				err = os.WriteFile(p, b, 0o600)
			}
		}
		if err == nil && h.Typeflag != tar.TypeSymlink && h.Typeflag != tar.TypeLink {
			err = errors.Join(os.Chown(p, h.Uid, h.Gid), syscall.Chmod(p, uint32(h.Mode)))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// buildRuntime builds a runtime from Debian itself, with a cache of its own.
func buildRuntime(t *testing.T, name string, into build.Registry) *build.Result {
	t.Helper()
	text, ok := runtimes.Definition(name)
	if !ok {
		t.Fatalf("no definition %s", name)
	}
	def, err := rebuild.ParseDefinition(text)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r, err := build.Build(t.Context(), build.Options{Definition: def, Text: text, LockFile: filepath.Join(dir, "lock"),
		Cache: filepath.Join(dir, "cache"), Mirrors: build.AptMirrors(t.Context(), def), Client: build.AptClient(t.Context()),
		Registry: into, Rebuild: rebuild.Builder{TempDir: dir}, Step: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// unpacked builds a runtime and returns its root.
func unpacked(t *testing.T, name string) string {
	t.Helper()
	k := keep{root: t.TempDir()}
	if err := os.Chmod(k.root, 0o755); err != nil {
		t.Fatal(err)
	}
	r := buildRuntime(t, name, k)
	t.Logf("%s: %.1f MB", name, float64(r.Bytes)/1e6)
	for dev, minor := range map[string]int{"null": 3, "urandom": 9} {
		p := filepath.Join(k.root, "dev", dev)
		if err := syscall.Mknod(p, syscall.S_IFCHR|0o666, 1<<8|minor); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return k.root
}

// inside runs a program of the image as the app's user.
func inside(t *testing.T, root string, env []string, argv ...string) (string, int) {
	t.Helper()
	return ended(t, command(t, root, env, argv...))
}

// command is a program of the image, to be run as the app's user.
func command(t *testing.T, root string, env []string, argv ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Dir, c.Env = "/", env
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	return c
}

// ended runs a program to its end and returns what it said and its exit code.
func ended(t *testing.T, c *exec.Cmd) (string, int) {
	t.Helper()
	out, err := c.CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), e.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out), 0
}

// TestReproducible: two clean builds give one image, byte for byte.
func TestReproducible(t *testing.T) {
	a, b := buildRuntime(t, "puller", nil), buildRuntime(t, "puller", nil)
	if !a.Date.Equal(b.Date) { // Debian published between the two
		a = buildRuntime(t, "puller", nil)
	}
	if a.Config != b.Config || a.Manifest != b.Manifest || a.Measurement != b.Measurement {
		t.Errorf("two builds differ:\n%+v\n%+v", a, b)
	}
}

func TestPython(t *testing.T) {
	root := unpacked(t, "python")
	const program = `
import ssl, http.server, json, sqlite3, hashlib, ctypes, uuid, zoneinfo, subprocess, socket, mimetypes, bz2, lzma, zlib, os, pwd
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 100
assert zoneinfo.ZoneInfo("Europe/Berlin")
assert subprocess.run("exit 3", shell=True).returncode == 3
assert socket.getservbyname("https") == 443
assert mimetypes.guess_type("a.html")[0] == "text/html"
assert pwd.getpwuid(os.getuid()).pw_name == "app"
open(os.path.expanduser("~/written"), "w").write("x")
print(sqlite3.connect(":memory:").execute("select 6*7").fetchone()[0])
`
	out, code := inside(t, root, []string{"PATH=/usr/bin", "HOME=/home/app"}, "/usr/bin/python3", "-c", program)
	if code != 0 || out != "42\n" {
		t.Errorf("exit %d:\n%s", code, out)
	}
}

// gitServer serves a repository over TLS to who has the token.
type gitServer struct {
	*httptest.Server
	dir, token string
	user       string                                        // the only one whose token it is; "" is anybody
	instead    func(http.ResponseWriter, *http.Request) bool // answers, if it wants to
	ca         []byte
	mu         sync.Mutex
	seen       []string // authorisation failures and user names
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	c := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main",
		"-c", "safe.directory=*"}, args...)...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func newGitServer(t *testing.T, token string) *gitServer {
	t.Helper()
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		need.Missing(t, "git")
	}
	s := &gitServer{dir: t.TempDir(), token: token}
	git(t, s.dir, "init", "--quiet", "app.git")
	s.commit(t, "client-app.py", "print('one')\n")
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"), Logger: log.New(io.Discard, "", 0), Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + s.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=safe.directory",
			"GIT_CONFIG_VALUE_0=*", "GIT_CONFIG_KEY_1=uploadpack.allowReachableSHA1InWant", "GIT_CONFIG_VALUE_1=true", "HOME=" + s.dir}}
	mux := http.NewServeMux()
	mux.Handle("/moved.git/", http.RedirectHandler("/app.git/info/refs?service=git-upload-pack", http.StatusMovedPermanently))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		user, pass, ok := r.BasicAuth()
		if !ok || pass != s.token || s.user != "" && user != s.user {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		s.mu.Lock()
		s.seen = append(s.seen, user)
		s.mu.Unlock()
		s.serve(w, r, backend)
	})
	s.Server = httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{s.certificate(t)}, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *gitServer) certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// commit adds a file and returns the commit.
func (s *gitServer) commit(t *testing.T, file, content string) string {
	t.Helper()
	repo := filepath.Join(s.dir, "app.git")
	if err := os.WriteFile(filepath.Join(repo, file), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	git(t, repo, "add", "-A")
	git(t, repo, "commit", "--quiet", "-m", "change")
	return git(t, repo, "rev-parse", "HEAD")
}

type pull struct {
	repository, token, ca string
	user, proxy           string // no file where they are empty
	env                   []string
}

// run gives the program its files and returns what it said.
func (p pull) run(t *testing.T, root string) (string, int) {
	t.Helper()
	return ended(t, p.command(t, root))
}

// command is the program, with its files in place.
func (p pull) command(t *testing.T, root string) *exec.Cmd {
	t.Helper()
	in := filepath.Join(root, "run/cupel/pull")
	if err := os.MkdirAll(in, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"repository": p.repository, "token": p.token, "ca.pem": p.ca, "user": p.user, "proxy": p.proxy} {
		file := filepath.Join(in, name)
		err := os.WriteFile(file, []byte(content), 0o644)
		if content == "" && (name == "user" || name == "proxy") {
			err = os.Remove(file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	home := filepath.Join(root, "home/client-app")
	if err := errors.Join(os.MkdirAll(home, 0o755), os.Chown(home, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	env := append([]string{"PATH=/usr/bin:/bin", "HOME=/tmp", "CUPEL_PULL_DIR=/home/client-app/repo", "CUPEL_PULL_EXPECT=client-app.py"}, p.env...)
	return command(t, root, env, "/usr/bin/cupel-pull")
}

// requests is how often the server met its token.
func (s *gitServer) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

func TestPuller(t *testing.T) {
	root := unpacked(t, "puller")
	const token = "glpat-Zm9vYmFyYmF6cXV4"
	s := newGitServer(t, token)
	first := git(t, filepath.Join(s.dir, "app.git"), "rev-parse", "HEAD")
	good := pull{repository: s.URL + "/app.git", token: token + "\n", ca: string(s.ca)}
	with := func(change func(*pull)) pull {
		p := good
		change(&p)
		return p
	}
	refused := func(name string, p pull, code int, says string) {
		t.Helper()
		out, got := p.run(t, root)
		t.Logf("%s: exit %d: %s", name, got, strings.TrimSpace(out))
		if got != code || !strings.Contains(out, says) {
			t.Errorf("%s: exit %d, said %q: want exit %d and %q", name, got, out, code, says)
		}
		if strings.Contains(out, token) || strings.Contains(out, "hunter2") {
			t.Errorf("%s: the token was printed", name)
		}
	}
	refused("wrong token", with(func(p *pull) { p.token = "wrong" }), 65, "refuses the token")
	refused("no token", with(func(p *pull) { p.token = "" }), 64, "no token")
	refused("wrong repository", with(func(p *pull) { p.repository = s.URL + "/other.git" }), 66, "no such repository")
	refused("http", with(func(p *pull) { p.repository = "http://127.0.0.1/app.git" }), 64, "http://")
	refused("ssh", with(func(p *pull) { p.repository = "git@example.org:app.git" }), 64, "for ssh")
	refused("file", with(func(p *pull) { p.repository = "file:///etc" }), 64, "https://")
	refused("password in address", with(func(p *pull) { p.repository = strings.Replace(s.URL, "//", "//me:hunter2@", 1) + "/app.git" }), 64, "holds a password")
	refused("empty", with(func(p *pull) { p.repository = "" }), 64, "no repository")
	refused("unknown authority", with(func(p *pull) { p.ca = "" }), 67, "not trusted")
	refused("not a certificate", with(func(p *pull) { p.ca = "nonsense" }), 78, "GIT_CA")
	refused("nobody there", with(func(p *pull) { p.repository = "https://127.0.0.1:1/app.git" }), 68, "not reachable")
	refused("no name", with(func(p *pull) { p.repository = "https://nowhere.invalid/app.git" }), 68, "not reachable")
	refused("no such file", with(func(p *pull) { p.env = []string{"CUPEL_PULL_EXPECT=main.py"} }), 70, "no such file: main.py")
	refused("no such ref", with(func(p *pull) { p.env = []string{"CUPEL_PULL_REF=nope"} }), 76, "no such branch")
	refused("option as ref", with(func(p *pull) { p.env = []string{"CUPEL_PULL_REF=--upload-pack=x"} }), 64, "the ref is not")

	accepted := func(name string, p pull, commit, content string) {
		t.Helper()
		out, code := p.run(t, root)
		if code != 0 || !strings.Contains(out, "at commit "+commit) {
			t.Fatalf("%s: exit %d, said %q, want commit %s", name, code, out, commit)
		}
		b, err := os.ReadFile(filepath.Join(root, "home/client-app/repo/client-app.py"))
		if err != nil || string(b) != content {
			t.Errorf("%s: client-app.py is %q, %v", name, b, err)
		}
	}
	accepted("first pull", good, first, "print('one')\n")
	accepted("redirect before the token is asked for", with(func(p *pull) { p.repository = s.URL + "/moved.git" }), first, "print('one')\n")
	second := s.commit(t, "client-app.py", "print('two')\n")
	stray := filepath.Join(root, "home/client-app/repo/stray")
	if err := os.WriteFile(stray, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	accepted("second pull", good, second, "print('two')\n")
	if _, err := os.Stat(stray); err == nil {
		t.Error("a stray file survived the second pull")
	}
	if objects := git(t, filepath.Join(root, "home/client-app/repo"), "cat-file", "--batch-all-objects", "--batch-check=%(objectname)"); strings.Contains(objects, first) {
		t.Errorf("the first commit is still there:\n%s", objects)
	}
	accepted("pinned commit", with(func(p *pull) { p.env = []string{"CUPEL_PULL_REF=" + first} }), first, "print('one')\n")
	accepted("pinned branch", with(func(p *pull) { p.env = []string{"CUPEL_PULL_REF=main"} }), second, "print('two')\n")
	accepted("hostile environment", with(func(p *pull) {
		p.env = []string{"GIT_SSL_NO_VERIFY=1", "GIT_TRACE_CURL=/home/client-app/trace", "GIT_CONFIG_COUNT=1",
			"GIT_CONFIG_KEY_0=http.sslVerify", "GIT_CONFIG_VALUE_0=false"}
	}), second, "print('two')\n")
	accepted("absolute path", with(func(p *pull) { p.env = []string{"CUPEL_PULL_EXPECT=/home/client-app/repo/client-app.py"} }), second, "print('two')\n")
	nothingKept(t, filepath.Join(root, "home"), token, strings.TrimPrefix(s.URL, "https://"))
	nothingKept(t, filepath.Join(root, "tmp"), token)
	t.Run("inputs", func(t *testing.T) { inputsAsOwner(t, root, good) })
	for _, user := range s.seen {
		if user != "x-access-token" {
			t.Errorf("the server met user %q", user)
		}
	}
}

// nothingKept looks for words in every file below dir.
func nothingKept(t *testing.T, dir string, words ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		for _, w := range words {
			if bytes.Contains(b, []byte(w)) {
				t.Errorf("%s holds %q", p, w)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
