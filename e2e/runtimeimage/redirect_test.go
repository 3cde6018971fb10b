//go:build e2e

package runtimeimage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// asked is how what git asks for first ends.
const asked = "/info/refs?service=git-upload-pack"

// redirect has the server answer what is asked of some repositories (path -> Location)
// with a status of redirection, and returns the paths that it is asked for.
func (s *gitServer) redirect(status int, locations map[string]string) *[]string {
	paths := &[]string{}
	s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		s.mu.Lock()
		*paths = append(*paths, r.URL.Path)
		s.mu.Unlock()
		location, ok := locations[strings.TrimSuffix(r.URL.Path, "/info/refs")]
		if !ok || !strings.HasSuffix(r.URL.Path, "/info/refs") {
			return false
		}
		w.Header().Set("Location", location)
		w.WriteHeader(status)
		return true
	}
	return paths
}

// TestPullRedirects: a redirect to another path of the same server is followed, as
// every clone follows it; no other is.
func TestPullRedirects(t *testing.T) {
	root := unpacked(t, "puller")
	t.Run("followed", func(t *testing.T) { followed(t, newPlace(t, root)) })
	t.Run("content", func(t *testing.T) { contentBehindRedirect(t, newPlace(t, root)) })
	t.Run("submodules", func(t *testing.T) { submoduleBehindRedirect(t, newPlace(t, root)) })
	t.Run("not followed", func(t *testing.T) { notFollowed(t, newPlace(t, root)) })
	t.Run("circles", func(t *testing.T) { circles(t, newPlace(t, root)) })
	t.Run("secrets", func(t *testing.T) { secretsInRedirects(t, newPlace(t, root)) })
	t.Run("no redirects", func(t *testing.T) { noRedirects(t, newPlace(t, root)) })
}

// noHeaders looks for what git traced of a redirect.
func (p *place) noHeaders() {
	p.t.Helper()
	if _, err := os.Lstat(filepath.Join(p.root, "tmp/cupel-headers")); !errors.Is(err, fs.ErrNotExist) {
		p.t.Errorf("the headers are still there: %v", err)
	}
}

func followed(t *testing.T, p *place) {
	p.s.repository(t, "new/app.git", map[string]string{"f": "new"}, nil)
	p.s.repository(t, "new/a b.git", map[string]string{"f": "blank"}, nil)
	host := strings.TrimPrefix(p.s.URL, "https://")
	for _, status := range []int{301, 302, 303, 307, 308} {
		p.s.redirect(status, map[string]string{"/was/app": "/new/app.git" + asked})
		if out := p.pulls("/was/app"); !strings.Contains(out, "pull: the server redirects to https://[server]/new/app.git: give that as GIT_REPO\n") {
			t.Errorf("%d: %s", status, out)
		}
		p.holds("f", "new")
		p.noHeaders()
	}
	for location, want := range map[string]string{
		p.s.URL + "/new/app.git" + asked:                      "new",
		"HTTPS://" + host + "/new/app.git" + asked:            "new",
		"//" + host + "/new/app.git" + asked:                  "new",
		"../../../new/app.git" + asked:                        "new",
		"/x/./../new/app.git" + asked + "#end":                "new",
		"https://me:hunter2@" + host + "/new/app.git" + asked: "new",
		"/new/%61%20b.git" + asked:                            "blank",
		"/new/a b.git" + asked:                                "blank",
		"/new/app.git/" + asked:                               "new",
	} {
		p.s.redirect(http.StatusMovedPermanently, map[string]string{"/was/app": location})
		if out := p.pulls("/was/app"); strings.Contains(out, "127.0.0.1") || strings.Contains(out, "hunter2") {
			t.Errorf("%q: an address was printed:\n%s", location, out)
		}
		p.holds("f", want)
	}
	nothingKept(t, p.home, "hunter2", p.s.token)

	// A host's name has no case.
	p.s.redirect(http.StatusFound, map[string]string{"/was/app": "https://LOCALHOST:" + host[strings.LastIndex(host, ":")+1:] + "/new/app.git" + asked})
	named := p.pull
	named.repository, named.env = strings.Replace(p.s.URL, "127.0.0.1", "somebody@localhost", 1)+"/was/app", []string{"CUPEL_PULL_EXPECT="}
	if out, code := named.run(t, p.root); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
}

// contentBehindRedirect: what comes along is asked for where the repository is now, and
// an address that is relative is so to the one that was given.
func contentBehindRedirect(t *testing.T, p *place) {
	lib := p.s.repository(t, "was/lib.git", map[string]string{"f": "lib"}, nil)
	p.s.repository(t, "new/app.git", map[string]string{
		".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("model")), ".gitmodules": modules("lib", "../lib.git"),
	}, map[string]string{"lib": lib})
	paths := p.s.redirect(http.StatusMovedPermanently, map[string]string{"/was/app.git": "/between.git" + asked, "/between.git": "/new/app.git" + asked})
	for range 2 { // the second updates
		p.pulls("/was/app.git")
		p.holds("m.bin", "model")
		p.holds("lib/f", "lib")
	}
	if all := fmt.Sprint(*paths); !strings.Contains(all, " /new/app.git/info/lfs/objects/batch") || strings.Contains(all, "/was/app.git/info/lfs") {
		t.Errorf("asked for %s", all)
	}
}

func submoduleBehindRedirect(t *testing.T, p *place) {
	files := map[string]string{".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("model"))}
	lib := p.s.repository(t, "new/lib.git", files, nil)
	p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("lib", "../was/lib")}, map[string]string{"lib": lib})
	locations := map[string]string{"/was/lib": "/new/lib.git" + asked}
	p.s.redirect(http.StatusMovedPermanently, locations)
	moved := p.s.instead
	p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/was/lib.git/info/lfs") {
			http.NotFound(w, r)
			return true
		}
		return moved(w, r)
	}
	for range 2 { // the second has the commit already
		if out := p.pulls("/app.git"); !strings.Contains(out, "redirects to https://[server]/new/lib.git: give that in .gitmodules") {
			t.Error(out)
		}
		p.holds("lib/m.bin", "model")
	}
	if err := os.RemoveAll(filepath.Join(p.home, "repo")); err != nil {
		t.Fatal(err)
	}
	locations["/was/lib"] = "https://elsewhere.example/lib.git" + asked
	p.refused("/app.git", 73, "the submodule lib can not be had: the server redirects to another server, elsewhere.example")
	locations["/was/lib"] = "/login"
	p.refused("/app.git", 73, "the submodule lib can not be had: the server redirects elsewhere")
}

func notFollowed(t *testing.T, p *place) {
	other := newGitServer(t, p.s.token)
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request over http://") }))
	defer plain.Close()
	host := strings.TrimPrefix(p.s.URL, "https://")
	p.s.repository(t, "new/app.git", map[string]string{"f": "x"}, nil)
	const login = "redirects elsewhere: give the final address as GIT_REPO; if that is a page to log in at"
	for location, says := range map[string]string{
		other.URL + "/app.git" + asked:                           "to another server, [server]:" + other.URL[strings.LastIndex(other.URL, ":")+1:] + ", where the token does not follow: give the address there",
		"https://elsewhere.example/g/app.git?x=y":                "to another server, elsewhere.example, where",
		"https://me:hunter2@Elsewhere.example:8443/login?secret": "to another server, Elsewhere.example:8443, where",
		"//elsewhere.example/new/app.git" + asked:                "to another server, elsewhere.example, where",
		plain.URL + "/app.git" + asked:                           "over http://, where anybody on the way reads the token",
		"http://" + host + "/new/app.git" + asked:                "to [server] over http://",
		"/login?next=%2Fwas%2Fapp.git":                           login,
		"/login?next=/new/app.git" + asked:                       login,
		"/new/app.git":                                           login,
		"/new/app.git/info/refs":                                 login,
		"/new/app.git/info/refs?service=git-receive-pack":        login,
		"/new/app.git" + asked + "&x=y":                          login,
		asked:                                                    login,
		"":                                                       login,
		"?x":                                                     login,
		"ftp://" + host + "/new/app.git" + asked:                 login,
		"https://a@b@" + host + "/new/app.git" + asked:           login,
		"https://elsewhere.example\\@" + host + "/new/app.git" + asked: login,
		"https://" + host + "\\@elsewhere.example/new/app.git" + asked: login,
		"/new\x1b[31m/app.git" + asked:                                 login,
		"https://else\x1bwhere.example/app.git" + asked:                login,
		"/new\t/app.git" + asked:                                       login,
	} {
		p.s.redirect(http.StatusMovedPermanently, map[string]string{"/was/app.git": location})
		out := p.refused("/was/app.git", 69, says)
		if strings.ContainsAny(out, "\x1b\t") || strings.Contains(out, "hunter2") || strings.Contains(out, "secret") {
			t.Errorf("%q: %q", location, out)
		}
		p.noHeaders()
	}
	if n := other.requests(); n != 0 {
		t.Errorf("the token reached another server %d times", n)
	}
}

func circles(t *testing.T, p *place) {
	p.s.repository(t, "new/app.git", map[string]string{"f": "x"}, nil)
	chain := map[string]string{"/5": "/new/app.git" + asked}
	for i := range 5 {
		chain[fmt.Sprintf("/%d", i)] = fmt.Sprintf("/%d%s", i+1, asked)
	}
	p.s.redirect(http.StatusFound, chain)
	p.pulls("/1")
	for name, locations := range map[string]map[string]string{
		"six": chain,
		"two": {"/0": "/1" + asked, "/1": "/0" + asked},
		"one": {"/0": "/0" + asked},
	} {
		paths := p.s.redirect(http.StatusFound, maps.Clone(locations))
		if p.refused("/0", 69, "more than five times in a row, perhaps in a circle"); len(*paths) > 11 {
			t.Errorf("%s: %d requests", name, len(*paths))
		}
	}
}

// secretsInRedirects: a server that redirects to what it was given has it printed by nobody.
func secretsInRedirects(t *testing.T, p *place) {
	escaped := fmt.Sprintf("%%%02x", p.s.token[0]) + p.s.token[1:]
	for _, location := range []string{"/" + p.s.token, "/" + escaped, "/%25" + escaped[1:]} {
		p.s.redirect(http.StatusFound, map[string]string{"/app.git": location + asked})
		if out := p.refused("/app.git", 66, "the server redirects to https://[server]/[token]", "no such repository"); strings.Contains(out, p.s.token[1:]) {
			t.Errorf("%s: %s", location, out)
		}
	}
	p.s.redirect(http.StatusFound, map[string]string{"/app.git": "https://" + p.s.token + ".example/"})
	p.refused("/app.git", 69, "to another server, [token].example")

	p.s.token, p.pull.token = "requested", "requested"
	p.s.redirect(http.StatusFound, map[string]string{"/app.git": "https://requested.example/"})
	p.refused("/app.git", 69, "to another server, which is not named here")
	p.s.redirect(http.StatusFound, map[string]string{"/app.git": "/requested" + asked})
	p.refused("/app.git", 66, "the server redirects to another path of its own")
}

// noRedirects have a status, or a header, of one.
func noRedirects(t *testing.T, p *place) {
	p.s.repository(t, "new/app.git", map[string]string{"f": "x"}, nil)
	p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/git-upload-pack") {
			return false
		}
		http.Redirect(w, r, "/app.git/git-upload-pack", http.StatusTemporaryRedirect)
		return true
	}
	p.refused("/new/app.git", 69, "redirects elsewhere")

	p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Location", "/new/app.git"+asked)
		http.NotFound(w, r)
		return true
	}
	p.refused("/app.git", 66, "no such repository")

	// A header of two lines.
	p.s.instead = func(w http.ResponseWriter, _ *http.Request) bool {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 301 Moved\r\nLocation: /log\n in/new/app.git"+asked+"\r\nContent-Length: 0\r\n\r\n")
		_ = conn.Close()
		return true
	}
	p.refused("/app.git", 69, "redirects elsewhere")
	p.s.instead = nil

	// A proxy is not the server.
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", p.s.URL+"/new/app.git"+asked)
		w.WriteHeader(http.StatusFound)
	}))
	defer proxy.Close()
	through := p.pull
	through.repository, through.proxy = p.s.URL+"/app.git", proxy.URL
	p.refusedAs(through, 74, "the proxy does not lead to the server")
}
