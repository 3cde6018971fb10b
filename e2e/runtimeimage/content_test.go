//go:build e2e

package runtimeimage

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// serve answers as git servers do: with a repository, and what it keeps in Git LFS.
// Paths that begin with /dumb have files alone, with /old a server of the protocol
// before 2, with /echo one that repeats what it was given, with /silent one that
// never answers.
func (s *gitServer) serve(w http.ResponseWriter, r *http.Request, backend http.Handler) {
	lfs := filepath.Join(s.dir, "lfs")
	if s.instead != nil && s.instead(w, r) {
		return
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/silent"):
		<-r.Context().Done()
	case strings.HasPrefix(r.URL.Path, "/echo"):
		user, pass, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s said %s as %s to %s, https://%s%s\n", user, pass, r.Header.Get("Authorization"), r.Host, r.Host, r.URL.Path)
	case strings.Contains(r.URL.Path, "/.git/"): // of no repository
		http.NotFound(w, r)
	case strings.HasSuffix(r.URL.Path, "/objects/batch"):
		var request struct {
			Objects []map[string]any `json:"objects"`
		}
		_ = json.NewDecoder(r.Body).Decode(&request)
		for _, o := range request.Objects {
			oid := fmt.Sprint(o["oid"])
			if _, err := os.Stat(filepath.Join(lfs, oid)); err != nil {
				o["error"] = map[string]any{"code": 404, "message": "no such object here"}
				continue
			}
			o["authenticated"] = true
			o["actions"] = map[string]any{"download": map[string]any{
				"href": "https://" + r.Host + "/lfs/" + oid, "header": map[string]string{"Authorization": r.Header.Get("Authorization")}}}
		}
		w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
		_ = json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": request.Objects})
	case strings.HasPrefix(r.URL.Path, "/lfs/"):
		http.ServeFile(w, r, filepath.Join(lfs, filepath.Base(r.URL.Path)))
	case strings.HasPrefix(r.URL.Path, "/dumb/"):
		http.StripPrefix("/dumb", http.FileServer(http.Dir(s.dir))).ServeHTTP(w, r)
	case strings.HasPrefix(r.URL.Path, "/old/"):
		r.Header.Del("Git-Protocol")
		http.StripPrefix("/old", backend).ServeHTTP(w, r)
	default:
		backend.ServeHTTP(w, r)
	}
}

// keepLFS puts content where the server keeps files in Git LFS, and returns the
// pointer to it.
func (s *gitServer) keepLFS(t *testing.T, content []byte) string {
	t.Helper()
	sum := sha256.Sum256(content)
	oid := hex.EncodeToString(sum[:])
	dir := filepath.Join(s.dir, "lfs")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, oid), content, 0o644)); err != nil { //nolint:gosec // of a test
		t.Fatal(err)
	}
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(content))
}

// repository makes files the content of a repository of the server, exactly as
// they are, with submodules (path -> commit), and returns the commit.
func (s *gitServer) repository(t *testing.T, name string, files, submodules map[string]string) string {
	t.Helper()
	bare := filepath.Join(s.dir, name)
	if err := os.RemoveAll(bare); err != nil {
		t.Fatal(err)
	}
	git(t, s.dir, "init", "--quiet", "--bare", bare)
	git(t, bare, "config", "uploadpack.allowReachableSHA1InWant", "false")
	for path, content := range files {
		blob := filepath.Join(t.TempDir(), "blob")
		if err := os.WriteFile(blob, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		mode := "100644"
		if strings.HasPrefix(path, "links/") {
			mode = "120000"
		}
		git(t, bare, "update-index", "--add", "--cacheinfo", mode+","+git(t, bare, "hash-object", "-w", "--no-filters", blob)+","+path)
	}
	for path, commit := range submodules {
		git(t, bare, "update-index", "--add", "--cacheinfo", "160000,"+commit+","+path)
	}
	commit := git(t, bare, "commit-tree", "-m", "content", git(t, bare, "write-tree"))
	git(t, bare, "update-ref", "refs/heads/main", commit)
	git(t, bare, "update-server-info")
	return commit
}

func modules(pathsAndAddresses ...string) string {
	var b strings.Builder
	for i := 0; i < len(pathsAndAddresses); i += 2 {
		fmt.Fprintf(&b, "[submodule \"m%d\"]\n\tpath = %s\n\turl = %s\n", i, pathsAndAddresses[i], pathsAndAddresses[i+1])
	}
	return b.String()
}

// TestPullContent: what a repository names is there after a pull, or the pull
// says by name what isn't.
func TestPullContent(t *testing.T) {
	root := unpacked(t, "puller")
	t.Run("submodules", func(t *testing.T) { pullSubmodules(t, newPlace(t, root)) })
	t.Run("submodules refused", func(t *testing.T) { refuseSubmodules(t, newPlace(t, root)) })
	t.Run("LFS", func(t *testing.T) { pullLFS(t, newPlace(t, root)) })
	t.Run("encodings", func(t *testing.T) { pullEncodings(t, newPlace(t, root)) })
	t.Run("other filters", func(t *testing.T) { otherFilters(t, newPlace(t, root)) })
	t.Run("what every clone takes", func(t *testing.T) { asEveryClone(t, newPlace(t, root)) })
	t.Run("no branch", func(t *testing.T) { noBranch(t, newPlace(t, root)) })
	t.Run("user", func(t *testing.T) { userBesideToken(t, newPlace(t, root)) })
	t.Run("proxy", func(t *testing.T) { throughProxy(t, newPlace(t, root)) })
	t.Run("words", func(t *testing.T) { wordsOfGit(t, newPlace(t, root)) })
	t.Run("silence", func(t *testing.T) { silence(t, newPlace(t, root)) })
	t.Run("silence of a pack", func(t *testing.T) { silenceOfPack(t, newPlace(t, root)) })
}

// pulls runs a pull of a path of the server that ends well.
func (p *place) pulls(path string, env ...string) string {
	p.t.Helper()
	pull := p.pull
	pull.repository, pull.env = p.s.URL+path, append([]string{"CUPEL_PULL_EXPECT="}, env...)
	out, code := pull.run(p.t, p.root)
	if code != 0 {
		p.t.Fatalf("%s: exit %d:\n%s", path, code, out)
	}
	return out
}

// refused runs a pull of a path of the server that ends with a code and these words.
func (p *place) refused(path string, code int, says ...string) string {
	p.t.Helper()
	pull := p.pull
	pull.repository, pull.env = p.s.URL+path, []string{"CUPEL_PULL_EXPECT="}
	return p.refusedAs(pull, code, says...)
}

// refusedAs runs a pull that must fail: with the code, and with any if that is 0.
func (p *place) refusedAs(pull pull, code int, says ...string) string {
	p.t.Helper()
	out, got := pull.run(p.t, p.root)
	p.t.Log(strings.TrimSpace(out))
	missing := slices.ContainsFunc(says, func(s string) bool { return !strings.Contains(out, s) })
	if got == 0 || code != 0 && got != code || missing || strings.Contains(out, "cause not known") {
		p.t.Errorf("exit %d: want %d and %q", got, code, says)
	}
	if strings.Contains(out, p.s.token) || strings.Contains(out, "127.0.0.1") {
		p.t.Errorf("token or address was printed")
	}
	p.clean()
	return out
}

// holds compares a file of what was pulled.
func (p *place) holds(path, content string) {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.home, "repo", path))
	if err != nil || string(b) != content {
		p.t.Errorf("%s is %q, %v: want %q", path, b, err, content)
	}
}

func pullSubmodules(t *testing.T, p *place) {
	deep := p.s.repository(t, "deep.git", map[string]string{"f": "deep"}, nil)
	middle := func(more string) string {
		return p.s.repository(t, "group/middle.git", map[string]string{"f": "middle" + more, ".gitmodules": modules("a b/ü", "../deep.git")},
			map[string]string{"a b/ü": deep})
	}
	for _, path := range []string{"/app.git", "/old/app.git", "/dumb/app.git"} {
		prefix := strings.TrimSuffix(path, "/app.git")
		files := map[string]string{"f": "top", ".gitmodules": modules("lib", "./../group/middle.git", "twice", "HTTPS"+strings.TrimPrefix(p.s.URL, "https")+prefix+"/deep.git")}
		// The group's submodule is relative to the group.
		p.s.repository(t, "group/deep.git", map[string]string{"f": "deep"}, nil)
		git(t, filepath.Join(p.s.dir, "group/deep.git"), "fetch", "--quiet", filepath.Join(p.s.dir, "deep.git"), "main:refs/heads/main", "--force")
		git(t, filepath.Join(p.s.dir, "group/deep.git"), "update-server-info")
		p.s.repository(t, "app.git", files, map[string]string{"lib": middle(""), "twice": deep})
		p.pulls(path)
		p.holds("f", "top")
		p.holds("lib/f", "middle")
		p.holds("lib/a b/ü/f", "deep")
		p.holds("twice/f", "deep")
		second := p.s.repository(t, "app.git", files, map[string]string{"lib": middle(" again"), "twice": deep})
		out := p.pulls(path)
		p.holds("lib/f", "middle again")
		p.holds("lib/a b/ü/f", "deep")
		if !strings.Contains(out, "submodule lib/a b/ü") {
			t.Errorf("the submodule is not named:\n%s", out)
		}
		if status := git(t, filepath.Join(p.home, "repo"), "status", "--short"); status != "" {
			t.Errorf("git status: %s", status)
		}
		p.whole(second)
	}
	for _, dir := range []string{".git", "lib/.git", "twice/.git"} {
		nothingKept(t, filepath.Join(p.home, "repo", dir), p.s.token, strings.TrimPrefix(p.s.URL, "https://")+"/app")
	}

	// A commit that is no branch's end is there all the same.
	tip := git(t, filepath.Join(p.s.dir, "deep.git"), "commit-tree", "-p", deep, "-m", "next", deep+"^{tree}")
	git(t, filepath.Join(p.s.dir, "deep.git"), "update-ref", "refs/heads/main", tip)
	p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("lib", "../deep.git")}, map[string]string{"lib": deep})
	p.pulls("/old/app.git")
	p.holds("lib/f", "deep")

	// What no clone could fetch stays the empty folder that it is in each, and is named.
	p.s.repository(t, "app.git", map[string]string{"f": "x"}, map[string]string{"lib": deep})
	if out := p.pulls("/app.git"); !strings.Contains(out, "lib is a submodule of which .gitmodules gives no address") {
		t.Error(out)
	}

	// A path may end in what looks like another's.
	p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("x.path lib", "../deep.git", "lib", "../deep.git")},
		map[string]string{"x.path lib": deep, "lib": deep})
	p.pulls("/app.git")
	p.holds("x.path lib/f", "deep")
	p.holds("lib/f", "deep")
}

func refuseSubmodules(t *testing.T, p *place) {
	other := newGitServer(t, p.s.token)
	deep := p.s.repository(t, "deep.git", map[string]string{"f": "deep"}, nil)
	for address, says := range map[string]string{
		other.URL + "/app.git":            "another server",
		p.s.URL + "1/app.git":             "another server",
		"git@elsewhere.example:deep.git":  "for ssh on another server",
		"ssh://git@127.0.0.2/deep.git":    "for ssh on another server",
		"git@127.0.0.1:nothing.git":       "no such repository",
		"http://127.0.0.1/deep.git":       "no https:// address",
		"file:///etc":                     "for one machine alone",
		"git://127.0.0.1/deep.git":        "goes over https:// alone",
		"ftp://elsewhere.example/x.git":   "goes over https:// alone",
		"/etc":                            "for one machine alone",
		"../../../../../x.git":            "leads nowhere",
		"../" + filepath.Base(other.URL):  "no such repository",
		p.s.URL + "/nothing.git":          "no such repository",
		"--upload-pack=touch /tmp/evil":   "for one machine alone",
		"https://127.0.0.1.example/x.git": "another server",
	} {
		p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("vendor/lib", address)}, map[string]string{"vendor/lib": deep})
		p.refused("/app.git", 73, "the submodule vendor/lib can not be had: ", says)
	}
	p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("lib", "../deep.git")}, map[string]string{"lib": strings.Repeat("0123456789", 4)})
	p.refused("/app.git", 73, "the submodule lib can not be had: ", "no such commit")

	// Of a file that git can't read nobody knows what it says.
	broken := map[string]string{"f": "x", ".gitmodules": "[submodule \"m\"]\n\tpath = lib\n\turl = ../deep.git\n[submodule\n"}
	inner := p.s.repository(t, "broken.git", broken, map[string]string{"lib": deep})
	p.refused("/broken.git", 73, "git can not read the file .gitmodules", "bad config line")
	p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("vendor/lib", "../broken.git")}, map[string]string{"vendor/lib": inner})
	p.refused("/app.git", 73, "git can not read the file vendor/lib/.gitmodules")
	if n := other.requests(); n != 0 {
		t.Errorf("the other server met the token %d times", n)
	}
}

func pullLFS(t *testing.T, p *place) {
	other := newGitServer(t, p.s.token)
	model := bytes.Repeat([]byte("0123456789"), 100_000)
	attributes := "*.bin filter=lfs diff=lfs merge=lfs -text\n"
	pointer := p.s.keepLFS(t, model)
	files := func(config string) map[string]string {
		f := map[string]string{".gitattributes": attributes, "dir/model.bin": pointer, "plain.bin": "no pointer", "pointer.txt": pointer}
		if config != "" {
			f[".lfsconfig"] = "[lfs]\n\turl = " + config + "\n"
		}
		return f
	}
	for _, config := range []string{"", p.s.URL + "/other/store", "../elsewhere", "ssh://git@127.0.0.1/app.git", "git@127.0.0.1:app"} {
		p.s.repository(t, "app.git", files(config), nil)
		p.pulls("/app.git")
		p.holds("dir/model.bin", string(model))
		p.holds("plain.bin", "no pointer")
		p.holds("pointer.txt", pointer) // no attribute makes it one
	}
	if _, err := os.Stat(filepath.Join(p.home, "repo/.git/lfs")); err == nil {
		t.Error("the file is kept twice")
	}
	nothingKept(t, p.home, p.s.token)

	// In a submodule, from the submodule's own place.
	lib := p.s.repository(t, "lib.git", files(""), nil)
	p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("lib", "../lib.git")}, map[string]string{"lib": lib})
	p.pulls("/app.git")
	p.holds("lib/dir/model.bin", string(model))

	// A slash at the end of an address is no part of it.
	p.s.repository(t, "app.git", files(""), nil)
	for _, path := range []string{"/app.git/", "/app.git//"} {
		p.pulls(path)
		p.holds("dir/model.bin", string(model))
	}
	for _, address := range []string{"../lib.git/", p.s.URL + "/lib.git/"} {
		p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("lib", address)}, map[string]string{"lib": lib})
		p.pulls("/app.git/")
		p.holds("lib/dir/model.bin", string(model))
	}

	p.s.repository(t, "app.git", files(other.URL+"/app.git/info/lfs"), nil)
	p.refused("/app.git", 73, "dir/model.bin", "another server", ".lfsconfig")
	p.s.repository(t, "app.git", files("ssh://git@127.0.0.2/app.git"), nil)
	p.refused("/app.git", 73, "dir/model.bin", "for ssh")
	if n := other.requests(); n != 0 {
		t.Errorf("the other server met the token %d times", n)
	}
	missing := files("")
	missing["dir/model.bin"] = fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n", 7)
	missing[".lfsconfig"] = "[lfs]\n\tskipdownloaderrors = true\n"
	p.s.repository(t, "app.git", missing, nil)
	p.refused("/app.git", 73, "Git LFS", "dir/model.bin", "no such object here")

	// What the repository itself leaves out stays a pointer, and is named.
	excluded := files("")
	excluded[".lfsconfig"] = "[lfs]\n\tfetchexclude = dir\n"
	p.s.repository(t, "app.git", excluded, nil)
	if out := p.pulls("/app.git"); !strings.Contains(out, "stays a pointer of Git LFS, as .lfsconfig wants it: dir/model.bin") {
		t.Error(out)
	}
	p.holds("dir/model.bin", pointer)
}

func pullEncodings(t *testing.T, p *place) {
	files := map[string]string{
		".gitattributes": "*.rc working-tree-encoding=UTF-16LE-BOM eol=crlf\n*.sj working-tree-encoding=SHIFT-JIS\n*.l1 working-tree-encoding=ISO-8859-1\n*.txt text eol=crlf\n",
		"res.rc":         "hé\n", "a.sj": "テ", "a.l1": "é", "a.txt": "a\nb\n",
	}
	p.s.repository(t, "app.git", files, nil)
	p.pulls("/app.git")
	p.holds("res.rc", "\xff\xfeh\x00\xe9\x00\r\x00\n\x00")
	p.holds("a.sj", "\x83\x65")
	p.holds("a.l1", "\xe9")
	p.holds("a.txt", "a\r\nb\r\n")
	files[".gitattributes"] = "*.rc working-tree-encoding=KLINGON\n"
	p.s.repository(t, "app.git", files, nil)
	p.refused("/app.git", 73, "working-tree-encoding", "res.rc", "KLINGON")
	p.holds("a.l1", "\xe9") // the state before
}

// asEveryClone has what git itself takes: commits that a strict reader refuses,
// servers of other protocols, ids of the other kind, names that git allows.
func asEveryClone(t *testing.T, p *place) {
	bare := filepath.Join(p.s.dir, "odd.git")
	p.s.repository(t, "odd.git", map[string]string{"f": "odd"}, nil)
	raw := exec.Command("git", "hash-object", "-t", "commit", "-w", "--stdin", "--literally")
	raw.Dir = bare
	raw.Stdin = strings.NewReader("tree " + git(t, bare, "rev-parse", "main^{tree}") +
		"\nauthor o <o@o> 1200000000 +051800\ncommitter o <o@o> 1200000000 +051800\n\none\n")
	commit, err := raw.Output()
	if err != nil {
		t.Fatal(err)
	}
	git(t, bare, "update-ref", "refs/heads/main", strings.TrimSpace(string(commit)))
	git(t, bare, "update-ref", "refs/heads/feature/#12(ü)+x", "main")
	git(t, bare, "update-server-info")
	for range 2 {
		p.pulls("/odd.git")
		p.holds("f", "odd")
	}
	for _, path := range []string{"/odd.git", "/old/odd.git", "/dumb/odd.git"} {
		for _, ref := range []string{"feature/#12(ü)+x", "refs/heads/main", strings.TrimSpace(string(commit))} {
			p.pulls(path, "CUPEL_PULL_REF="+ref)
		}
	}

	work := t.TempDir()
	git(t, work, "init", "--quiet", "--object-format=sha256", "sha256.git")
	work = filepath.Join(work, "sha256.git")
	if err := os.WriteFile(filepath.Join(work, "f"), []byte("256"), 0o600); err != nil {
		t.Fatal(err)
	}
	git(t, work, "add", "f")
	git(t, work, "commit", "--quiet", "-m", "one")
	if err := os.Rename(filepath.Join(work, ".git"), filepath.Join(p.s.dir, "sha256.git")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p.pulls("/sha256.git")
		p.holds("f", "256")
	}

	// A server that has the newest commit alone.
	git(t, p.s.dir, "clone", "--quiet", "--bare", "--depth=1", "file://"+bare, "shallow.git")
	p.pulls("/shallow.git")
	p.holds("f", "odd")
}

// otherFilters has files that a program would have to decode, which is not here.
func otherFilters(t *testing.T, p *place) {
	p.s.repository(t, "app.git", map[string]string{
		".gitattributes": "*.key filter=git-crypt\n*.ipynb filter=strip\nb.ipynb -filter\nc.ipynb !filter\n",
		"a b.key":        "sealed", "z.key": "sealed", "b.ipynb": "b", "c.ipynb": "c",
	}, nil)
	out := p.pulls("/app.git")
	if !strings.Contains(out, "no filter git-crypt (a b.key)") || strings.Count(out, "no filter") != 1 {
		t.Error(out)
	}
	p.holds("a b.key", "sealed")
}

func noBranch(t *testing.T, p *place) {
	git(t, p.s.dir, "init", "--quiet", "--bare", "empty.git")
	p.refused("/empty.git", 77, "the repository is empty")
	bare := filepath.Join(p.s.dir, "head.git")
	p.s.repository(t, "head.git", map[string]string{"f": "x"}, nil)
	git(t, bare, "branch", "-m", "main", "other")
	git(t, bare, "symbolic-ref", "HEAD", "refs/heads/main")
	p.refused("/head.git", 77, "the default branch of the repository is not there", "--ref")
	p.pulls("/head.git", "CUPEL_PULL_REF=other")
}

// userBesideToken has a server that takes its token with a user name alone.
func userBesideToken(t *testing.T, p *place) {
	p.s.user = "deploy+token-1"
	p.s.repository(t, "app.git", map[string]string{"f": "x", ".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("model"))}, nil)
	p.refused("/app.git", 65, "refuses the token", "--git-user")
	with := p.pull
	with.repository, with.user, with.env = p.s.URL+"/app.git", p.s.user+"\n", []string{"CUPEL_PULL_EXPECT="}
	inAddress := p.pull
	inAddress.repository, inAddress.env = strings.Replace(p.s.URL, "//", "//deploy%2Btoken-1@", 1)+"/app.git", with.env
	for _, pull := range []pull{with, inAddress} {
		if out, code := pull.run(t, p.root); code != 0 {
			t.Errorf("exit %d:\n%s", code, out)
		}
		p.holds("m.bin", "model")
	}
	nothingKept(t, p.home, p.s.token, p.s.user)
	with.user = "somebody"
	if out := p.refusedAs(with, 65, "refuses the token"); strings.Contains(out, "somebody") {
		t.Errorf("the user name was printed")
	}
}

// throughProxy has a proxy that asks for a password, and says how it is called.
func throughProxy(t *testing.T, p *place) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const password = "p:ss%w0rd"
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+password))
	passed := make(chan string, 100)
	proxy := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != want {
			w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		passed <- r.Host
		out, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer out.Close()
		w.WriteHeader(http.StatusOK)
		in, sent, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer in.Close()
		go func() { _, _ = io.Copy(out, sent) }() // with what the server has read already
		_, _ = io.Copy(in, out)
	})}
	go func() { _ = proxy.Serve(l) }()
	t.Cleanup(func() { _ = proxy.Close() })

	p.s.repository(t, "app.git", map[string]string{"f": "x", ".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("by proxy"))}, nil)
	through := p.pull
	through.repository, through.env = p.s.URL+"/app.git", []string{"CUPEL_PULL_EXPECT="}
	through.proxy = "http://me:p%3Ass%25w0rd@" + l.Addr().String() + "\n"
	if out, code := through.run(t, p.root); code != 0 {
		t.Errorf("exit %d:\n%s", code, out)
	}
	p.holds("m.bin", "by proxy")
	if len(passed) < 2 {
		t.Errorf("%d connections through the proxy", len(passed))
	}
	nothingKept(t, p.home, "p%3Ass", password)
	through.proxy = "http://me:hunter2@" + l.Addr().String()
	if out := p.refusedAs(through, 74, "--proxy", "407"); strings.Contains(out, "hunter2") {
		t.Error("the proxy's password was printed")
	}
	through.proxy = "http://nowhere.invalid:3128"
	p.refusedAs(through, 74, "--proxy")
	through.proxy = "http://127.0.0.1:1"
	p.refusedAs(through, 68, "--proxy")
}

// wordsOfGit: an end that the puller has no words for carries git's, and a server
// that repeats what it was given has nothing of it repeated again.
func wordsOfGit(t *testing.T, p *place) {
	echoed := p.pull
	echoed.repository, echoed.user = p.s.URL+"/echo/app.git", "deployer"
	out := p.refusedAs(echoed, 72, "git could not ask the server", "git said: ", "418", "[token]", "[user]", "[server]", "[address]")
	for _, given := range []string{"deployer:" + p.s.token, p.s.token} {
		if strings.Contains(out, base64.StdEncoding.EncodeToString([]byte(given))[:20]) {
			t.Error("the token was printed in base64")
		}
	}

	echoed.repository, echoed.user = strings.Replace(p.s.URL, "//", "//deploy%2Btoken-1@", 1)+"/echo/app.git", ""
	if out := p.refusedAs(echoed, 72, "[user]", "[token]"); strings.Contains(out, "deploy+token") {
		t.Error("the user name was printed")
	}

	bare := filepath.Join(p.s.dir, "broken.git")
	p.s.repository(t, "broken.git", map[string]string{"f": "x"}, nil)
	tree := git(t, bare, "rev-parse", "main^{tree}")
	if err := os.Remove(filepath.Join(bare, "objects", tree[:2], tree[2:])); err != nil {
		t.Fatal(err)
	}
	p.refused("/broken.git", 72, "git could not fetch", "git said: ", tree)
}

// edit changes a line of the program for one test.
func (p *place) edit(line, instead string) {
	p.t.Helper()
	program := filepath.Join(p.root, "usr/bin/cupel-pull")
	text, err := os.ReadFile(program)
	if err != nil {
		p.t.Fatal(err)
	}
	changed := strings.Replace(string(text), line, instead, 1)
	if changed == string(text) {
		p.t.Fatalf("the puller has no line %q", line)
	}
	write := func(text string) {
		if err := os.WriteFile(program, []byte(text), 0o755); err != nil { //nolint:gosec // a program
			p.t.Error(err)
		}
	}
	write(changed)
	p.t.Cleanup(func() { write(string(text)) })
}

// silence has a server that takes the request and never answers.
func silence(t *testing.T, p *place) {
	p.edit("\npatience=45 ", "\npatience=1 ")
	p.refused("/silent.git", 79, "does not answer: for 1 seconds")

	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and no more
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent := p.pull
	silent.repository = "https://" + l.Addr().String() + "/app.git"
	p.refusedAs(silent, 79, "does not answer")
}

// silenceOfPack has one that has answered, and then sends nothing of the pack.
func silenceOfPack(t *testing.T, p *place) {
	p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/git-upload-pack") { // before version 2 that is the pack alone
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}
		return false
	}
	p.edit("\nlull=180 ", "\nlull=2 ")
	p.refused("/old/app.git", 79, "does not answer: for 2 seconds")
}

// inputsAsOwner: what the owner's side takes the puller takes, and what it refuses
// the puller refuses, for the same reason.
func inputsAsOwner(t *testing.T, root string, good pull) {
	b, err := os.ReadFile("../../internal/trusted/owner/template/testdata/pull_inputs.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		What, Value, Refused string
		Owner                bool // refused on the owner's side alone
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if c.Owner {
			continue
		}
		p := good
		p.repository, p.user, p.proxy = "https://127.0.0.1:1/app.git", "", "" // nobody is there: inputs come first
		switch c.What {
		case "repository":
			p.repository = strings.NewReplacer("git.example.org", "127.0.0.1:1", "bitbucket.org", "127.0.0.1:1").Replace(c.Value)
			if c.Refused != "" || strings.Contains(p.repository, "127.0.0.1:1:") {
				p.repository = c.Value
			}
		case "token":
			p.token = c.Value
		case "user":
			p.user = c.Value
		case "proxy":
			p.proxy = c.Value
		case "ref":
			p.env = []string{"CUPEL_PULL_REF=" + c.Value}
		}
		out, code := p.run(t, root)
		if (code == 64) != (c.Refused != "") || c.Refused != "" && !strings.Contains(out, c.Refused) {
			t.Errorf("%s %q: exit %d, %q; want refused: %q", c.What, c.Value, code, out, c.Refused)
		}
	}
}
