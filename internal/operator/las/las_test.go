package las

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/instance/las"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/wire"
)

// echo is a platform whose quote is what it was told, in JSON.
type echo struct{}

type told struct {
	Launch     simtee.Launch
	ReportData evidence.Data64
}

func (echo) Quote(l simtee.Launch, reportData evidence.Data64) (evidence.Evidence, error) {
	b, err := json.Marshal(told{l, reportData})
	return evidence.Evidence{Type: evidence.SGX, Quote: b}, err
}

// inspector answers with what it holds.
type inspector map[ident.AttemptID]Launched

func (i inspector) Inspect(_ context.Context, id ident.AttemptID) (Launched, error) {
	l, ok := i[id]
	if !ok {
		return l, errors.New("no such instance")
	}
	return l, nil
}

var image = launch.ImageConfig{Config: ident.Digest{1}, DiffIDs: []ident.Digest{{2}}}

func listen(dir, name string) (*net.UnixListener, error) {
	return net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
}

// server returns a server of which this process is every instance's launcher.
func server(t *testing.T, change func(*Launched)) *Server {
	t.Helper()
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		need.Missing(t, err.Error())
	}
	member, err := cgroup.MembershipOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	path := member["memory"]
	if groups.V2() {
		path = member[""]
	}
	spec, err := launch.Spec(launch.Newest, image)
	if err != nil {
		t.Fatal(err)
	}
	if spec, err = launch.Fill(spec, launch.Free{Memory: 1 << 30, CgroupsPath: string(path)}); err != nil {
		t.Fatal(err)
	}
	l := Launched{PID: os.Getpid(), Cgroup: path, Spec: spec, Image: image}
	change(&l)
	return New(Config{
		Inspector: inspector{"i-1": l}, Platform: echo{}, Cgroups: groups, Listen: listen,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: time.Now,
	})
}

func unchanged(*Launched) {}

func ask(t *testing.T, dir string) (evidence.Evidence, error) {
	t.Helper()
	return las.Client{Addr: "unix:" + filepath.Join(dir, wire.Socket)}.Quote(t.Context(), evidence.Data64{42})
}

func TestQuote(t *testing.T) {
	s := server(t, unchanged)
	dir := t.TempDir()
	if err := s.Open("i-1", dir, evidence.Data64{9}); err != nil {
		t.Fatal(err)
	}
	defer s.Close("i-1")
	member, err := cgroup.MembershipOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !s.cfg.Cgroups.V2() && (member["pids"] != member["memory"] || member["devices"] != member["memory"]) {
		t.Skip("this process is in groups of different names")
	}
	e, err := ask(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	var got told
	if err := json.Unmarshal(e.Quote, &got); err != nil {
		t.Fatal(err)
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	want, err := launch.Expected(launch.Newest, image, ident.Sum(exe))
	if err != nil {
		t.Fatal(err)
	}
	if got.Launch.Measurement != want || got.Launch.ConfigID != (evidence.Data64{9}) || !got.Launch.Debug ||
		got.Launch.Signer != simtee.Signer() || got.ReportData != (evidence.Data64{42}) {
		t.Errorf("quoted %+v, want measurement %v", got, want)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		id     ident.AttemptID
		rule   problem.Rule
		change func(*Launched)
	}{
		{"another process is the launcher", "i-1", "las_peer", func(l *Launched) { l.PID = 1 }},
		{"no process is", "i-1", "las_peer", func(l *Launched) { l.PID = 0 }},
		{"in another control group", "i-1", "las_peer", func(l *Launched) { l.Cgroup = "/elsewhere" }},
		{"nothing runs", "i-2", "las_launch", unchanged},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := server(t, c.change)
			dir := t.TempDir()
			if err := s.Open(c.id, dir, evidence.Data64{}); err != nil {
				t.Fatal(err)
			}
			defer s.Close(c.id)
			_, err := ask(t, dir)
			if p := problem.From(err); err == nil || p.Kind != problem.Denied || p.Rule != c.rule {
				t.Errorf("%v, want %s", err, c.rule)
			}
		})
	}
}

func TestOpenAgainAndClose(t *testing.T) {
	s := server(t, unchanged)
	dir, other := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, other} {
		if err := s.Open("i-1", d, evidence.Data64{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ask(t, dir); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("the replaced socket answers: %v", err)
	}
	s.Close("i-1")
	s.Close("i-1")
	if _, err := ask(t, other); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("the closed socket answers: %v", err)
	}
	if err := s.Open("i-1", filepath.Join(dir, "none"), evidence.Data64{}); err == nil {
		t.Error("listens in a folder that is not there")
	}
}

func post(t *testing.T, conn net.Conn, body string) (int, problem.Error) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	resp, err := client.Post("http://las"+wire.PathQuote, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p problem.Error
	_ = json.Unmarshal(b, &p)
	return resp.StatusCode, p
}

func request(t *testing.T) string {
	t.Helper()
	b, err := json.Marshal(wire.QuoteRequest{Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestServeConn: the CAS's connection lives as long as the CAS, silent or not.
func TestServeConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Platform: echo{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
		here, there := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- s.ServeConn(t.Context(), there, ident.Measurement{5}) }()
		for _, silence := range []time.Duration{time.Hour, 24 * time.Hour} {
			time.Sleep(silence)
			if _, err := here.Write([]byte("POST " + wire.PathQuote + " HTTP/1.1\r\nHost: las\r\nContent-Length: " +
				itoa(len(request(t))) + "\r\n\r\n" + request(t))); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 64<<10)
			n, err := here.Read(buf)
			if err != nil || !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200")) {
				t.Fatalf("%q, %v", buf[:n], err)
			}
			if !bytes.Contains(buf[:n], []byte("quote")) { // head and body may come apart
				if n, err = here.Read(buf); err != nil || !bytes.Contains(buf[:n], []byte("quote")) {
					t.Fatalf("%q, %v", buf[:n], err)
				}
			}
		}
		here.Close()
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestServeConnEndsWithContext(t *testing.T) {
	s := New(Config{Platform: echo{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	here, there := net.Pipe()
	defer here.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServeConn(ctx, there, ident.Measurement{}) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	s := New(Config{Platform: echo{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	good := request(t)
	for name, body := range map[string]string{
		"empty": "", "no JSON": "x", "no version": `{}`, "unknown field": `{"version":1,"x":1}`,
		"short report data": `{"version":1,"report_data":"00"}`, "huge": `{"version":1,"x":"` + strings.Repeat("x", maxRequest) + `"}`,
		"version 2": strings.Replace(good, `"version":1`, `"version":2`, 1),
	} {
		here, there := net.Pipe()
		go func() { _ = s.ServeConn(t.Context(), there, ident.Measurement{}) }()
		if status, p := post(t, here, body); status != http.StatusBadRequest || p.Rule != "las_request" {
			t.Errorf("%s: status %d, %v", name, status, p.Rule)
		}
		here.Close()
	}
}

func TestRateLimit(t *testing.T) {
	now := time.Unix(0, 0)
	l := newLimiter(func() time.Time { return now }, rate{burst: 3, perSecond: 2})
	count := func() (n int) {
		for l.take() {
			n++
		}
		return n
	}
	if got := count(); got != 3 {
		t.Errorf("at once: %d, want 3", got)
	}
	now = now.Add(time.Second)
	if got := count(); got != 2 {
		t.Errorf("after a second: %d, want 2", got)
	}
	now = now.Add(time.Hour)
	if got := count(); got != 3 {
		t.Errorf("after an hour: %d, want 3", got)
	}
	now = now.Add(-time.Hour) // a clock set back gives nothing away
	if got := count(); got != 0 {
		t.Errorf("after the clock went back: %d", got)
	}
}

func TestBinaries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b")
	var b binaries
	for _, content := range []string{"one", "two", "three"} {
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if d, err := b.digest(path); err != nil || d != ident.Sum([]byte(content)) {
				t.Errorf("%s: %v, %v", content, d, err)
			}
		}
	}
	if _, err := b.digest(filepath.Dir(path)); err == nil {
		t.Error("measured a folder")
	}
	if _, err := b.digest(path + "none"); err == nil {
		t.Error("measured nothing")
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"report_data":"00"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := http.NewRequest(http.MethodPost, "http://las"+wire.PathQuote, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q, err := readRequest(discard{}, r, newLimiter(time.Now, instanceRate))
		if err == nil && q.Version != 1 {
			t.Errorf("accepted version %d", q.Version)
		}
	})
}

type discard struct{ http.ResponseWriter }

func (discard) Header() http.Header { return http.Header{} }
