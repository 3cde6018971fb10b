//go:build e2e

package runtimeimage

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPullAnswers: what a server, or something on the way to it, answers is called
// what it is; what passes is waited for, and nothing else.
func TestPullAnswers(t *testing.T) {
	root := unpacked(t, "puller")
	t.Run("statuses", func(t *testing.T) { statuses(t, newPlace(t, root)) })
	t.Run("busy for a while", func(t *testing.T) { busyForAWhile(t, newPlace(t, root)) })
	t.Run("waits as wanted", func(t *testing.T) { waitsAsWanted(t, newPlace(t, root)) })
	t.Run("no repository", func(t *testing.T) { noGitServer(t, newPlace(t, root)) })
	t.Run("broken connections", func(t *testing.T) { brokenConnections(t, newPlace(t, root)) })
	t.Run("TLS", func(t *testing.T) { otherTLS(t, newPlace(t, root)) })
	t.Run("proxies", func(t *testing.T) { answersOfProxies(t, newPlace(t, root)) })
	t.Run("names", func(t *testing.T) { misleadingNames(t, newPlace(t, root)) })
	t.Run("log in", func(t *testing.T) { otherWaysToLogIn(t, newPlace(t, root)) })
	t.Run("LFS", func(t *testing.T) { answersOfLFS(t, newPlace(t, root)) })
	t.Run("guessable", func(t *testing.T) { guessable(t, newPlace(t, root)) })
	t.Run("users and tokens", func(t *testing.T) { usersAndTokens(t, newPlace(t, root)) })
	t.Run("refs", func(t *testing.T) { refsOfTwoKinds(t, newPlace(t, root)) })
	t.Run("submodules", func(t *testing.T) { asCloneHasSubmodules(t, newPlace(t, root)) })
}

// answer has the server answer everything behind a path's end in one way.
func (s *gitServer) answer(end string, status int, text string) {
	s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, end) {
			return false
		}
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(status)
		fmt.Fprintln(w, text)
		return true
	}
}

func statuses(t *testing.T, p *place) {
	p.edit("\npauses='5 15 30'", "\npauses='0 0'")
	for _, end := range []string{"/info/refs", "/git-upload-pack"} {
		for status, want := range map[int]struct {
			code, requests int
			says           string
		}{
			400: {72, 1, "the server answers 400"},
			401: {65, 1, "refuses the token"},
			403: {65, 1, "refuses the token"},
			404: {66, 1, "no such repository"},
			410: {66, 1, "no such repository"},
			413: {72, 1, "the server answers 413"},
			429: {80, 3, "the server answers 429"},
			500: {80, 3, "the server answers 500"},
			501: {72, 1, "the server answers 501"},
			502: {80, 3, "the server answers 502"},
			503: {80, 3, "the server answers 503"},
			504: {80, 3, "the server answers 504"},
		} {
			p.s.answer(end, status, "SSL certificate not found: No space left on device")
			before := p.s.requests()
			out := p.refused("/app.git", want.code, want.says)
			if n := p.s.requests() - before; end == "/info/refs" && status != 401 && n != want.requests {
				t.Errorf("%d: %d requests, want %d", status, n, want.requests)
			}
			if strings.Count(out, "asked again in 0 seconds") != want.requests-1 {
				t.Errorf("%d at %s: %s", status, end, out)
			}
		}
	}
}

// busyForAWhile has servers that can't serve at first.
func busyForAWhile(t *testing.T, p *place) {
	p.edit("\npauses='5 15 30'", "\npauses='0 0 0'")
	p.s.repository(t, "app.git", map[string]string{"f": "x", ".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("model"))}, nil)
	refused := map[string]int{}
	p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		if refused[r.URL.Path]++; refused[r.URL.Path] > 1 {
			return false
		}
		http.Error(w, "later", http.StatusServiceUnavailable)
		return true
	}
	out := p.pulls("/app.git")
	p.holds("m.bin", "model")
	// git-lfs asks again by itself.
	if strings.Count(out, "the server answers 503: it is asked again") != 2 || len(refused) != 4 {
		t.Errorf("%v\n%s", refused, out)
	}
}

// waitsAsWanted has a server that says when it may be asked again.
func waitsAsWanted(t *testing.T, p *place) {
	p.edit("\npauses='5 15 30'", "\npauses='0 0'")
	for wait, c := range map[string]struct {
		requests int
		says     string
	}{
		"1":                             {3, "it is asked again in 1 seconds"},
		"0":                             {3, "it is asked again in 0 seconds"},
		"3600":                          {1, "the server answers 429 and wants to be left alone for 3600 seconds: ask again later"},
		"Fri, 01 Jan 2100 00:00:00 GMT": {3, "it is asked again in 0 seconds"},
	} {
		p.s.instead = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", wait)
			http.Error(w, "slow down", http.StatusTooManyRequests)
			return true
		}
		before := p.s.requests()
		p.refused("/app.git", 80, c.says)
		if n := p.s.requests() - before; n != c.requests {
			t.Errorf("%s: %d requests, want %d", wait, n, c.requests)
		}
	}
	p.noHeaders()
}

// noGitServer has what isn't one: pages to log in at, and others.
func noGitServer(t *testing.T, p *place) {
	page := func(kind, text string) {
		p.s.instead = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", kind)
			fmt.Fprint(w, text)
			return true
		}
	}
	for _, text := range []string{"<html>log in</html>", "", "0123456789"} {
		page("text/html; charset=utf-8", text)
		p.refused("/app.git", 66, "what answers there is no repository", "log in")
	}
	page("application/x-git-upload-pack-advertisement", "<html>")
	p.refused("/app.git", 66, "what answers there is no repository")

	p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "/login?next=/", http.StatusFound)
		return true
	}
	p.refused("/app.git", 69, "redirects elsewhere", "log in")
}

// brokenConnections have ends that another try may not meet.
func brokenConnections(t *testing.T, p *place) {
	p.many("large", 50, 10_000)
	for end, kind := range map[string]string{"/info/refs": "advertisement", "/git-upload-pack": "result"} {
		for _, send := range []string{"", "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-" + kind + "\r\nContent-Length: 10000\r\n\r\n0008NAK\n"} {
			p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, end) {
					return false
				}
				conn, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Error(err)
					return true
				}
				_, _ = io.WriteString(conn, send)
				_ = conn.(*tls.Conn).NetConn().Close()
				return true
			}
			out := p.refused("/app.git", 82, "broke off")
			if strings.Contains(out, "at the first request") != (end == "/info/refs") {
				t.Errorf("%s: %s", end, out)
			}
		}
	}

	// In the middle of a handshake, and at once.
	for _, read := range []int{0, 1} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Read(make([]byte, 100*read))
				_ = conn.Close()
			}
		}()
		cut := p.pull
		cut.repository = "https://" + l.Addr().String() + "/app.git"
		p.refusedAs(cut, 82, "broke off")
	}
}

// otherTLS has a server without TLS, and one that its certificate doesn't name.
func otherTLS(t *testing.T, p *place) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	other := p.pull
	other.repository = strings.Replace(plain.URL, "http:", "https:", 1) + "/app.git"
	p.refusedAs(other, 81, "speaks no TLS: GIT_REPO has to name an https port")

	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := p.s.TLS.Clone()
		config.ClientAuth, config.MinVersion, config.MaxVersion = tls.RequireAnyClientCert, version, version
		strict := httptest.NewUnstartedServer(http.NotFoundHandler())
		strict.TLS, strict.Config.ErrorLog = config, log.New(io.Discard, "", 0)
		strict.StartTLS()
		defer strict.Close()
		other.repository = strict.URL + "/app.git"
		p.refusedAs(other, 0, "want", "certificate of its clients") // 81 where its alert comes first, else 82
	}

	l, err := tls.Listen("tcp", "127.0.0.2:0", p.s.TLS)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	other.repository = "https://" + l.Addr().String() + "/app.git"
	p.refusedAs(other, 78, "not trusted", "not for the name that GIT_REPO has")
}

// answersOfProxies are those instead of a way to the server.
func answersOfProxies(t *testing.T, p *place) {
	p.s.repository(t, "app.git", map[string]string{"f": "x"}, nil)
	for status, want := range map[int]struct {
		code int
		says string
	}{
		407: {74, "refuses the user name and password"},
		403: {74, "does not allow the way"},
		404: {74, "does not lead to the server"},
		502: {68, "does not reach the server"},
		503: {68, "does not reach the server"},
	} {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
			http.Error(w, "SSL certificate", status)
		}))
		defer proxy.Close()
		through := p.pull
		through.repository, through.proxy = p.s.URL+"/app.git", strings.Replace(proxy.URL, "//", "//me:p4ss-w0rd@", 1)
		p.refusedAs(through, want.code, want.says)
	}
}

// misleadingNames have words in them that git says of troubles.
func misleadingNames(t *testing.T, p *place) {
	p.edit("\npauses='5 15 30'", "\npauses='0'")
	p.refused("/SSL-certificate.git", 66, "no such repository")
	p.refused("/not-found/TLS.git", 66, "no such repository")
	p.s.answer("/info/refs", http.StatusServiceUnavailable, "x")
	p.refused("/timed-out/TLS.git", 80, "the server answers 503")
	p.s.instead = nil

	long := strings.Repeat("SSL certificate ", 20)
	p.s.repository(t, "app.git", map[string]string{"unreachable/" + long: "x"}, nil)
	p.refused("/app.git", 72, "git could not check the files out", "File name too long")

	files := map[string]string{".gitattributes": "*.bin filter=lfs\n"}
	files["x509: EOF Server error.bin"] = fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n", 7)
	p.s.repository(t, "app.git", files, nil)
	p.refused("/app.git", 73, "does the server have it?")

	// A name may have several lines, and whatever stands behind it where git names it.
	for _, name := range []string{"x\nreturned error: 503", "x (abcdef0): y\nx509: certificate (abcdef0)", "x\nfatal: No space left", "x\nz trace git-lfs: HTTP: 503\ny", "x\x1b\rServer error"} {
		files = map[string]string{".gitattributes": "*.bin filter=lfs\n"}
		files[name+".bin"] = fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n", 7)
		p.s.repository(t, "app.git", files, nil)
		p.refused("/app.git", 73, "does the server have it?")
	}
	for _, name := range []string{"error: a", "x\nerror: smudge filter"} {
		p.s.repository(t, "app.git", map[string]string{".gitattributes": "*.bin filter=lfs\n", name + ".bin": "no pointer"}, nil)
		p.pulls("/app.git")
		p.holds(name+".bin", "no pointer")
	}
}

// otherWaysToLogIn has servers that no token opens.
func otherWaysToLogIn(t *testing.T, p *place) {
	for _, c := range []struct {
		offered []string
		says    string
	}{
		{[]string{"Negotiate"}, "asks for Negotiate and not for Basic"},
		{[]string{`Bearer realm="x"`}, "asks for Bearer and not for Basic"},
		{[]string{"Negotiate", `Digest realm="x", nonce="y"`}, "asks for Digest or Negotiate and not for Basic"},
		{[]string{"<b>tokentoken</b>"}, "refuses the token"},
		{[]string{"Tokentoken x"}, "asks for another way and not for Basic"},
		{[]string{"Negotiate", `basic realm="x"`}, "refuses the token"},
		{[]string{`Negotiate, Basic realm="x"`}, "refuses the token"},
	} {
		p.s.instead = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header()["Www-Authenticate"] = c.offered
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		p.refused("/app.git", 65, c.says)
	}
	p.s.instead = nil
}

// answersOfLFS are those at its own place.
func answersOfLFS(t *testing.T, p *place) {
	p.edit("\npauses='5 15 30'", "\npauses='0'")
	p.s.repository(t, "app.git", map[string]string{"f": "x", ".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("model"))}, nil)
	for status, want := range map[int]struct {
		code int
		says string
	}{
		401: {65, "refuses the token for files in Git LFS"},
		403: {65, "refuses the token for files in Git LFS"},
		404: {73, "the server answers 404 for a file that the repository keeps in Git LFS: does the server have it"},
		422: {73, "the server answers 422 for a file"},
		501: {73, "Git LFS turned off"},
		507: {73, "traffic or quota for them is used up"},
		429: {80, "the server answers 429"},
		500: {80, "files in Git LFS can not be had"},
		503: {80, "the server answers 503"},
	} {
		p.s.answer("/objects/batch", status, `{"message":"no"}`)
		p.refused("/app.git", want.code, want.says)
	}
	p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/objects/batch") {
			return false
		}
		conn, _, _ := w.(http.Hijacker).Hijack()
		_ = conn.Close()
		return true
	}
	p.refused("/app.git", 82, "broke off")
	p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/objects/batch") {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, "<html>Log in</html>")
		return true
	}
	p.refused("/app.git", 73, "is no server of Git LFS")
	p.s.instead = nil

	// Each of many files is asked for with one token.
	many := map[string]string{".gitattributes": "*.bin filter=lfs\n"}
	for i := range 250 {
		many[fmt.Sprintf("%d.bin", i)] = p.s.keepLFS(t, fmt.Appendf(nil, "model %d", i))
	}
	p.s.repository(t, "app.git", many, nil)
	p.pulls("/app.git")
	p.holds("249.bin", "model 249")

	// What git can't read says nothing of where the files are; without such files it
	// is of no interest.
	broken := map[string]string{"f": "x", ".lfsconfig": "[lfs\n"}
	p.s.repository(t, "app.git", broken, nil)
	p.pulls("/app.git")
	broken[".gitattributes"], broken["m.bin"] = "*.bin filter=lfs\n", p.s.keepLFS(t, []byte("model"))
	p.s.repository(t, "app.git", broken, nil)
	p.refused("/app.git", 73, "can not read the file .lfsconfig")
}

// guessable has secrets that would be read out of what hides them.
func guessable(t *testing.T, p *place) {
	for _, token := range []string{"e", "error", "requested", "The requested URL returned"} {
		p.s.token, p.pull.token = token, token
		echoed := p.pull
		echoed.repository = p.s.URL + "/echo/app.git"
		out, code := echoed.run(t, p.root)
		if code != 72 || strings.Contains(out, "[token]") || strings.Contains(out, "said ") && strings.Contains(out, " as Basic") {
			t.Errorf("token %q: exit %d:\n%s", token, code, out)
		}
		if !strings.Contains(out, "what git said is not shown") || !strings.Contains(out, "the server answers 418") {
			t.Errorf("token %q: %s", token, out)
		}
	}
}

// usersAndTokens has names and secrets of every character that a line can have.
func usersAndTokens(t *testing.T, p *place) {
	p.s.repository(t, "app.git", map[string]string{"f": "x", ".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("model"))}, nil)
	for _, user := range []string{"O'Neil", `a"b`, "a/b", "me@corp.example", "DOM\\me", "Zoë", "a%2Fb", "-x", "$(id)"} {
		for _, token := range []string{"glpat-Zm9v", ":/@?#[]'\"\\%20 &é"} {
			p.s.user, p.s.token = user, token
			with := p.pull
			with.repository, with.user, with.token, with.env = p.s.URL+"/app.git", user+"\n", token+"\n", []string{"CUPEL_PULL_EXPECT="}
			if out, code := with.run(t, p.root); code != 0 {
				t.Errorf("user %q, token %q: exit %d:\n%s", user, token, code, out)
			}
		}
	}
	p.holds("m.bin", "model")
}

// refsOfTwoKinds has names that stand for two things, and things that are no commits.
func refsOfTwoKinds(t *testing.T, p *place) {
	bare := filepath.Join(p.s.dir, "refs.git")
	first := p.s.repository(t, "refs.git", map[string]string{"f": "tag"}, nil)
	git(t, bare, "tag", "-a", "-m", "x", "both", first)
	git(t, bare, "tag", "-a", "-m", "x", "nested", "both")
	second := git(t, bare, "commit-tree", "-p", first, "-m", "next", first+"^{tree}")
	git(t, bare, "branch", "both", second)
	git(t, bare, "update-ref", "refs/pull/1/head", second)
	git(t, bare, "tag", "folder", first+"^{tree}")
	git(t, bare, "update-server-info")
	for _, prefix := range []string{"", "/old", "/dumb"} {
		for ref, want := range map[string]string{
			"both": second, "refs/tags/both": first, "refs/heads/both": second, "tags/both": first, "nested": first,
			"refs/pull/1/head": second, "HEAD": first, first: first, strings.ToUpper(first): first,
		} {
			out := p.pulls(prefix+"/refs.git", "CUPEL_PULL_REF="+ref)
			if !strings.Contains(out, "at commit "+want) || strings.Contains(out, "is a branch and a tag") != (ref == "both") {
				t.Errorf("%s: %s\n%s", prefix, ref, out)
			}
		}
		folder := p.pull
		folder.repository, folder.env = p.s.URL+prefix+"/refs.git", []string{"CUPEL_PULL_REF=folder"}
		p.refusedAs(folder, 76, "is no commit")
	}
}

// asCloneHasSubmodules has addresses and settings that 'git clone' takes.
func asCloneHasSubmodules(t *testing.T, p *place) {
	lib := p.s.repository(t, "group/lib.git", map[string]string{"f": "lib"}, nil)
	host := strings.TrimPrefix(p.s.URL, "https://")
	for _, address := range []string{"git@127.0.0.1:group/lib.git", "ssh://git@127.0.0.1/group/lib.git", "SSH://127.0.0.1:2222/group/lib.git",
		"https://somebody@" + host + "/group/lib.git", "../group/lib.git"} {
		p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("lib", address)}, map[string]string{"lib": lib})
		p.pulls("/app.git")
		p.holds("lib/f", "lib")
	}
	// A file may begin with a byte order mark.
	p.s.repository(t, "app.git", map[string]string{".gitmodules": "\ufeff" + modules("lib", "../group/lib.git"),
		".lfsconfig": "\ufeff[lfs]\n\turl = ../group/app.git/info/lfs\n", ".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("model"))}, map[string]string{"lib": lib})
	p.pulls("/app.git", "CUPEL_PULL_EXPECT=/home/client-app/repo/lib") // a command may name a folder
	p.holds("lib/f", "lib")
	p.holds("m.bin", "model")

	// Over HTTPS the path may begin with what it has not for ssh.
	if err := os.RemoveAll(filepath.Join(p.home, "repo")); err != nil {
		t.Fatal(err)
	}
	p.s.repository(t, "app.git", map[string]string{".gitmodules": modules("lib", "ssh://git@127.0.0.1:7999/lib.git")}, map[string]string{"lib": lib})
	p.refused("/app.git", 73, "the submodule lib can not be had: no such repository", "https://[server]/lib.git was asked for", "write it relative there")

	left := modules("lib", "git@elsewhere.example:x.git") + "\tupdate = none\n"
	p.s.repository(t, "app.git", map[string]string{".gitmodules": left}, map[string]string{"lib": lib})
	if out := p.pulls("/app.git"); !strings.Contains(out, "lib is a submodule that .gitmodules leaves out (update = none)") {
		t.Error(out)
	}
	if out, err := exec.Command("ls", "-A", filepath.Join(p.home, "repo/lib")).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}
