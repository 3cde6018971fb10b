//go:build e2e

package runtimeimage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/owners"
)

// place is one volume in a root that the puller's image was unpacked into.
type place struct {
	t    *testing.T
	root string
	home string // the volume
	s    *gitServer
	pull pull
}

// newPlace gives the root an empty volume.
func newPlace(t *testing.T, root string) *place {
	t.Helper()
	p := &place{
		t:    t,
		root: root,
		home: filepath.Join(root, "home/client-app"),
		s:    newGitServer(t, "glpat-Zm9vYmFyYmF6cXV4"),
	}
	if err := errors.Join(os.RemoveAll(p.home), os.Mkdir(p.home, 0o755), os.Chown(p.home, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	p.pull = pull{repository: p.s.URL + "/app.git", token: p.s.token, ca: string(p.s.ca)}
	return p
}

// mount puts a volume of so many bytes at a place below the root.
func (p *place) mount(at string, size int) {
	p.t.Helper()
	at = filepath.Join(p.root, at)
	err := errors.Join(os.MkdirAll(at, 0o755), syscall.Mount("cupel-test", at, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755,uid=1000,gid=1000", size)))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := syscall.Unmount(at, 0); err != nil {
			p.t.Error(err)
		}
	})
}

// chown gives all of the volume to the app's user.
func (p *place) chown() {
	p.t.Helper()
	err := filepath.WalkDir(p.home, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 1000, 1000))
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) mustPull(env ...string) owners.Statement {
	p.t.Helper()
	pull := p.pull
	pull.env = env
	out, code := pull.run(p.t, p.root)
	if code != 0 {
		p.t.Fatalf("exit %d:\n%s", code, out)
	}
	b, err := os.ReadFile(filepath.Join(p.root, "run/cupel/statement.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	var st owners.Statement
	if err := json.Unmarshal(b, &st); err != nil {
		p.t.Fatalf("%v: %s", err, b)
	}
	p.whole(st.Commit)
	return st
}

// whole reports whether the tree is exactly what the server has of one of these
// commits, with nothing beside it, and which.
func (p *place) whole(commits ...string) string {
	p.t.Helper()
	repo := filepath.Join(p.home, "repo")
	head := git(p.t, repo, "rev-parse", "HEAD")
	for _, c := range commits {
		if head != c {
			continue
		}
		want := git(p.t, filepath.Join(p.s.dir, "app.git"), "rev-parse", c+"^{tree}")
		index := filepath.Join(p.t.TempDir(), "index")
		add := exec.Command("git", "-c", "safe.directory=*", "add", "-A", "--force", ".")
		add.Dir = repo
		add.Env = append(os.Environ(), "GIT_INDEX_FILE="+index, "GIT_OBJECT_DIRECTORY="+p.t.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
		if out, err := add.CombinedOutput(); err != nil {
			p.t.Fatalf("%v: %s", err, out)
		}
		write := exec.Command("git", "-c", "safe.directory=*", "write-tree", "--missing-ok")
		write.Dir, write.Env = repo, add.Env
		got, err := write.Output()
		if err != nil {
			p.t.Fatal(err)
		}
		if strings.TrimSpace(string(got)) != want {
			p.t.Errorf("the tree says that it is %s and is not", c)
		}
		return c
	}
	p.t.Errorf("the tree is at %s: want one of %v", head, commits)
	return ""
}

// clean fails where a pull has left more than the repository.
func (p *place) clean() {
	p.t.Helper()
	for _, dir := range []string{p.home, filepath.Join(p.home, "repo")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".cupel-") {
				p.t.Errorf("%s was left in %s", e.Name(), dir)
			}
		}
	}
}

// many commits a change of many files, so that a pull takes a while.
func (p *place) many(what string, files, size int) string {
	p.t.Helper()
	repo := filepath.Join(p.s.dir, "app.git")
	rnd := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", what))))
	for i := range files {
		b := make([]byte, size)
		_, _ = rnd.Read(b)
		dir := filepath.Join(repo, fmt.Sprintf("dir%d", i%20))
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d", i)), b, 0o600)); err != nil {
			p.t.Fatal(err)
		}
	}
	return p.s.commit(p.t, "client-app.py", "print('"+what+"')\n")
}

func TestPullIsAllOrNothing(t *testing.T) {
	root := unpacked(t, "puller")
	t.Run("stopped anywhere", func(t *testing.T) { stoppedAnywhere(t, newPlace(t, root)) })
	t.Run("half a state before", func(t *testing.T) { halfBefore(t, newPlace(t, root)) })
	t.Run("full", func(t *testing.T) { full(t, newPlace(t, root)) })
	t.Run("volume at the repository", func(t *testing.T) { volumeAtRepository(t, newPlace(t, root)) })
	t.Run("what the app wrote", func(t *testing.T) { appWrote(t, newPlace(t, root)) })
	t.Run("links", func(t *testing.T) { commandIsLink(t, newPlace(t, root)) })
	t.Run("statement", func(t *testing.T) { statement(t, newPlace(t, root)) })
	t.Run("one authority", func(t *testing.T) { oneAuthority(t, newPlace(t, root)) })
}

// stoppedAnywhere ends a pull at random moments, by signals that can be caught
// and by one that can't: the tree is the old commit or the new one, whole.
func stoppedAnywhere(t *testing.T, p *place) {
	p.mustPull()
	old := p.many("old", 100, 2000)
	begin := time.Now()
	p.mustPull()
	lasts := time.Since(begin)
	met := map[string]int{}
	for i := range 16 {
		next := p.many(fmt.Sprint("new", i), 100, 2000)
		sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGQUIT}[i%4]
		c := p.pull.command(t, p.root)
		c.SysProcAttr.Setpgid = true
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lasts/4 + time.Duration(rand.Int64N(int64(2*lasts))))
		_ = syscall.Kill(c.Process.Pid, sig)
		err := c.Wait()
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		switch code := c.ProcessState.ExitCode(); {
		case err == nil: // it was done
		case sig == syscall.SIGKILL && code == -1:
		case sig != syscall.SIGKILL && code == 75:
		default:
			t.Errorf("%s: %v", sig, err)
		}
		at := p.whole(old, next)
		if err == nil && at != next {
			t.Errorf("a pull that ended well left %s", at)
		}
		met[map[bool]string{true: "old", false: "new"}[at == old]]++
		old = at
	}
	t.Log(met)
	p.mustPull()
	p.clean()
}

// halfBefore begins with what older pullers left when they were cut off.
func halfBefore(t *testing.T, p *place) {
	for name, harm := range map[string]func(repo string) error{
		"index.lock":   func(repo string) error { return os.WriteFile(filepath.Join(repo, ".git/index.lock"), nil, 0o600) },
		"shallow.lock": func(repo string) error { return os.WriteFile(filepath.Join(repo, ".git/shallow.lock"), nil, 0o600) },
		"HEAD.lock":    func(repo string) error { return os.WriteFile(filepath.Join(repo, ".git/HEAD.lock"), nil, 0o600) },
		"half a tree":  func(repo string) error { return os.Remove(filepath.Join(repo, "client-app.py")) },
		"no index":     func(repo string) error { return os.WriteFile(filepath.Join(repo, ".git/index"), []byte("DIRC"), 0o600) },
		"no objects":   func(repo string) error { return os.RemoveAll(filepath.Join(repo, ".git/objects")) },
		"no HEAD":      func(repo string) error { return os.Remove(filepath.Join(repo, ".git/HEAD")) },
		"HEAD nonsense": func(repo string) error {
			return os.WriteFile(filepath.Join(repo, ".git/HEAD"), []byte("ref: refs/heads/gone\n"), 0o600)
		},
		"no repository": os.RemoveAll,
		"a file":        func(repo string) error { return errors.Join(os.RemoveAll(repo), os.WriteFile(repo, nil, 0o600)) },
		"a link":        func(repo string) error { return errors.Join(os.RemoveAll(repo), os.Symlink("/etc", repo)) },
		"read only": func(repo string) error {
			return errors.Join(os.Mkdir(filepath.Join(repo, "x"), 0o500), os.Chown(filepath.Join(repo, "x"), 1000, 1000), os.Chmod(repo, 0o500))
		},
		"a stage": func(repo string) error {
			stage := filepath.Join(filepath.Dir(repo), ".cupel-pull/tree/.git")
			return errors.Join(os.MkdirAll(stage, 0o755), os.WriteFile(filepath.Join(stage, "index.lock"), nil, 0o600),
				os.Chown(stage, 1000, 1000), os.Chown(filepath.Dir(stage), 1000, 1000), os.Chown(filepath.Dir(filepath.Dir(stage)), 1000, 1000))
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := *p
			q.t = t
			q.mustPull()
			if err := harm(filepath.Join(q.home, "repo")); err != nil {
				t.Fatal(err)
			}
			want := q.s.commit(t, "client-app.py", "print('after "+name+"')\n")
			if st := q.mustPull(); st.Commit != want {
				t.Errorf("%+v: want %s", st, want)
			}
			q.clean()
		})
	}
}

// commandIsLink has links where the app's command names a file: one that leads out of the
// repository may lead to what the app's own image has.
func commandIsLink(t *testing.T, p *place) {
	for name, to := range map[string]string{
		"python3": "/usr/lib/only-in-the-runtime/python3", "venv": "/opt/venv", "outside": "../../somewhere", "app": "../app.py",
		"absolute": "/home/client-app/repo/app.py", "app2": "app", "nowhere": "../none.py", "nowhere2": "/home/client-app/repo/none.py", "nowhere3": "../../repo/none.py", "nowhere4": "//home//client-app/repo/none.py", "around": "../../repo/app.py", "circle": "circle",
	} {
		p.s.repository(t, "command.git", map[string]string{"app.py": "", "links/app": "../app.py", "links/" + name: to}, nil)
		pull := p.pull
		pull.repository = p.s.URL + "/command.git"
		expect := "/home/client-app/repo/links/" + name
		if name == "venv" {
			expect += "/bin/python3"
		}
		pull.env = []string{"CUPEL_PULL_EXPECT=" + expect}
		if strings.HasPrefix(name, "nowhere") || name == "circle" {
			p.refusedAs(pull, 70, "no such file: links/"+name)
		} else if out, code := pull.run(t, p.root); code != 0 {
			t.Errorf("%s: exit %d: %s", name, code, out)
		}
		if err := os.RemoveAll(filepath.Join(p.home, "repo")); err != nil { // the next is the first pull again
			t.Fatal(err)
		}
	}
}

// full has a volume with room for one state and not for two.
func full(t *testing.T, p *place) {
	p.mount("home/client-app", 3<<20)
	old := p.mustPull().Commit
	next := p.many("large", 300, 10_000)
	out, code := p.pull.run(t, p.root)
	t.Log(out)
	if code != 71 || !strings.Contains(out, "give the app more memory") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	p.whole(old)
	git(t, filepath.Join(p.s.dir, "app.git"), "reset", "--quiet", "--hard", old)
	if st := p.mustPull(); st.Commit != old || st.Follows != owners.FollowsYes {
		t.Errorf("after %s: %+v", next, st)
	}
	p.clean()
}

// volumeAtRepository mounts the volume where the repository is to be: the folder
// itself can't be renamed.
func volumeAtRepository(t *testing.T, p *place) {
	p.mount("home/client-app/repo", 8<<20)
	first := p.mustPull().Commit
	p.clean()
	second := p.many("second", 20, 10)
	if st := p.mustPull(); st.Commit != second || st.Follows != owners.FollowsYes {
		t.Errorf("%+v: want %s after %s", st, second, first)
	}
	p.clean()
	if err := os.WriteFile(filepath.Join(p.home, "repo/.git/index.lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := p.with("CUPEL_PULL_EXPECT=nope.py").run(t, p.root); code != 70 {
		t.Errorf("exit %d:\n%s", code, out)
	}
	p.whole(second)
	p.mustPull("CUPEL_PULL_REF=" + first)
	p.clean()
}

func (p *place) with(env ...string) pull {
	pull := p.pull
	pull.env = env
	return pull
}

// appWrote has a volume that an app could write: nothing in it decides where the
// token goes, or which content has a commit's name.
func appWrote(t *testing.T, p *place) {
	other := newGitServer(t, "another")
	first := p.mustPull().Commit
	repo := filepath.Join(p.home, "repo")
	git(t, repo, "config", "url."+other.URL+"/.insteadOf", p.s.URL+"/")
	git(t, repo, "config", "http.proxy", other.URL)
	git(t, repo, "config", "core.fsmonitor", "touch /home/client-app/ran")
	hook := filepath.Join(repo, ".git/hooks/post-checkout")
	if err := errors.Join(os.MkdirAll(filepath.Dir(hook), 0o755), os.WriteFile(hook, []byte("#!/bin/sh\n: >/home/client-app/ran\n"), 0o755)); err != nil { //nolint:gosec // a hook has to be executable
		t.Fatal(err)
	}
	p.chown()
	if st := p.mustPull(); st.Commit != first || st.Follows != owners.FollowsYes {
		t.Errorf("%+v", st)
	}
	if _, err := os.Stat(filepath.Join(p.home, "ran")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a program of the volume ran")
	}
	if n := other.requests(); n != 0 {
		t.Errorf("the other server had %d requests", n)
	}

	// A loose object that has another's name.
	blob := git(t, repo, "rev-parse", "HEAD:client-app.py")
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("print('forged')\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	forged := git(t, repo, "hash-object", "-w", wrong)
	for _, pack := range must(filepath.Glob(filepath.Join(repo, ".git/objects/pack/*"))) {
		data := filepath.Join(t.TempDir(), filepath.Base(pack))
		if err := os.Rename(pack, data); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(pack, ".pack") {
			unpack := exec.Command("git", "-c", "safe.directory=*", "unpack-objects", "-q")
			unpack.Dir = repo
			f, err := os.Open(data)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			unpack.Stdin = f
			if out, err := unpack.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	object := func(id string) string { return filepath.Join(repo, ".git/objects", id[:2], id[2:]) }
	if err := os.Rename(object(forged), object(blob)); err != nil {
		t.Fatal(err)
	}
	p.chown()
	p.mustPull()
	p.clean()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func statement(t *testing.T, p *place) {
	repo := filepath.Join(p.s.dir, "app.git")
	is := func(what string, got owners.Statement, commit string, pinned bool, follows owners.Follows) {
		t.Helper()
		if want := (owners.Statement{Commit: commit, Pinned: pinned, Follows: follows}); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	ahead := func(n int) (last string) {
		for i := range n {
			last = p.s.commit(t, "client-app.py", fmt.Sprintf("print('%s %d')\n", t.Name(), i)+strings.Repeat("#\n", rand.IntN(1000)))
		}
		return last
	}
	first := git(t, repo, "rev-parse", "HEAD")
	is("first", p.mustPull(), first, false, owners.FollowsUnknown)
	is("again", p.mustPull(), first, false, owners.FollowsYes)
	is("pinned", p.mustPull("CUPEL_PULL_REF="+first), first, true, owners.FollowsYes)
	second := ahead(1)
	is("one ahead", p.mustPull(), second, false, owners.FollowsYes)
	is("back", p.mustPull("CUPEL_PULL_REF="+first), first, true, owners.FollowsNo)
	is("one ahead, by name", p.mustPull("CUPEL_PULL_REF=main"), second, false, owners.FollowsYes)
	for _, filter := range []string{"false", "true"} {
		git(t, repo, "config", "uploadpack.allowFilter", filter)
		held := git(t, repo, "rev-parse", "HEAD")
		now := ahead(30)
		is("30 ahead", p.mustPull(), now, false, owners.FollowsYes)
		git(t, repo, "reset", "--quiet", "--hard", held)
		now = ahead(3)
		is("rewritten", p.mustPull(), now, false, owners.FollowsNo)
	}

	// A server that withholds its history.
	held := git(t, repo, "rev-parse", "HEAD~2")
	p.mustPull()
	now := ahead(1)
	if err := os.WriteFile(filepath.Join(repo, ".git/shallow"), []byte(now+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	is("withheld", p.mustPull(), now, false, owners.FollowsUnknown)
	if err := os.Remove(filepath.Join(repo, ".git/shallow")); err != nil {
		t.Fatal(err)
	}
	is("back once more", p.mustPull("CUPEL_PULL_REF="+held), held, true, owners.FollowsNo)
	git(t, repo, "checkout", "--quiet", "--orphan", "fresh")
	now = p.s.commit(t, "client-app.py", "print('fresh')\n")
	is("another root", p.mustPull(), now, false, owners.FollowsNo)

	// Nothing of the history stays in the volume.
	if objects := git(t, filepath.Join(p.home, "repo"), "cat-file", "--batch-all-objects", "--batch-check=%(objectname)"); strings.Contains(objects, held) {
		t.Error("the commit before is still there")
	}
	nothingKept(t, p.home, p.s.token, strings.TrimPrefix(p.s.URL, "https://"))
	p.clean()
}

// oneAuthority: what the session gives as GIT_CA is trusted alone. The other
// server's authority is one of the image's own, in its bundle and its folder.
func oneAuthority(t *testing.T, p *place) {
	public := newGitServer(t, p.s.token)
	bundle := filepath.Join(p.root, "etc/ssl/certs/ca-certificates.crt")
	before, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	single := filepath.Join(p.root, "etc/ssl/certs/public.pem")
	if err := errors.Join(os.WriteFile(bundle, append(before, public.ca...), 0o644), os.WriteFile(single, public.ca, 0o644)); err != nil { //nolint:gosec // as in an image
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(os.WriteFile(bundle, before, 0o644), os.Remove(single)); err != nil { //nolint:gosec // as in an image
			t.Error(err)
		}
	}()
	wrong := p.pull
	wrong.repository = public.URL + "/app.git"
	for _, env := range [][]string{
		nil,
		{"SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "SSL_CERT_DIR=/etc/ssl/certs", "CURL_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt"},
		{"GIT_SSL_CAPATH=/etc/ssl/certs", "GIT_SSL_CAINFO=/etc/ssl/certs/ca-certificates.crt"},
	} {
		wrong.env = env
		out, code := wrong.run(t, p.root)
		t.Log(out)
		if code != 78 || !strings.Contains(out, "not trusted") {
			t.Errorf("%v: exit %d:\n%s", env, code, out)
		}
	}
	if n := public.requests(); n != 0 {
		t.Errorf("the token reached a server of another authority %d times", n)
	}
	p.mustPull()
	wrong.ca, wrong.env = "", nil // the image's own
	if out, code := wrong.run(t, p.root); code != 0 {
		t.Errorf("exit %d:\n%s", code, out)
	}
}
