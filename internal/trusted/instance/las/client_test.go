package las

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/httpproblem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// serve starts a LAS on a socket of its own and returns its address.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), wire.Socket)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	srv.Start()
	t.Cleanup(srv.Close)
	return "unix:" + path
}

func TestQuote(t *testing.T) {
	want := evidence.Evidence{Type: evidence.SGX, Quote: []byte("a quote"), Endorsements: json.RawMessage(`{"a":"b"}`)}
	data := evidence.Data64{1, 2, 3}
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var req wire.QuoteRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Version != 1 || req.ReportData != data ||
			r.Method != http.MethodPost || r.URL.Path != wire.PathQuote {
			httpproblem.Write(w, "", problem.New(problem.Invalid, "request", "%v %+v", err, req))
			return
		}
		_ = json.NewEncoder(w).Encode(want)
	})
	got, err := Client{Addr: addr}.Quote(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestQuoteRefused(t *testing.T) {
	huge := make([]byte, maxEvidence+1)
	cases := map[string]struct {
		h    http.HandlerFunc
		rule problem.Rule
	}{
		"problem": {func(w http.ResponseWriter, _ *http.Request) {
			httpproblem.Write(w, "", problem.New(problem.Denied, "peer", "no instance"))
		}, "peer"},
		"not json": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }, "las_reply"},
		"empty":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }, "las_reply"},
		"huge":     {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(huge) }, "las_reply"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Client{Addr: serve(t, c.h)}.Quote(t.Context(), evidence.Data64{})
			if err == nil || problem.From(err).Rule != c.rule {
				t.Errorf("got %v, want rule %s", err, c.rule)
			}
		})
	}
}

func TestQuoteUnreachable(t *testing.T) {
	_, err := Client{Addr: "unix:" + filepath.Join(t.TempDir(), "none")}.Quote(t.Context(), evidence.Data64{})
	if problem.KindOf(err) != problem.Unavailable {
		t.Errorf("got %v", err)
	}
	for _, addr := range []string{"", "tcp:1.2.3.4:5", "unix:relative"} {
		if _, err := (Client{Addr: addr}).Quote(t.Context(), evidence.Data64{}); problem.From(err).Rule != "las_address" {
			t.Errorf("%q: got %v", addr, err)
		}
	}
}
