package registry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestBrokenAnswerIsNoDamage: a registry that ends while it answers, or refuses a request,
// is told as that. Nothing of what it stored is known to be wrong, and nobody is told that
// a volume is lost.
func TestBrokenAnswerIsNoDamage(t *testing.T) {
	broken := func(w http.ResponseWriter, begun string) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(begun))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	manifest := string(newArtifact(t, noise(1, 1000)).manifest)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, blob bool)
		rule   string
	}{
		"the manifest breaks off": {func(w http.ResponseWriter, _ bool) { broken(w, `{"schemaVersion":2`) }, "registry_unreachable"},
		"the config breaks off": {func(w http.ResponseWriter, blob bool) {
			if blob {
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write([]byte(manifest))
		}, "registry_unreachable"},
		"400": {func(w http.ResponseWriter, _ bool) { w.WriteHeader(http.StatusBadRequest) }, "registry_failed"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				c.answer(w, strings.Contains(r.URL.Path, "/blobs/"))
			}
		}))
		client := NewClient(strings.TrimPrefix(srv.URL, "http://"))
		_, err := client.PullImage(t.Context(), "runtimes/python:latest")
		t.Log(err)
		if p := problem.From(err); err == nil || string(p.Rule) != c.rule || p.Kind != problem.Unavailable || p.Mend == "" {
			t.Errorf("%s: an image: %v", name, err)
		}
		if strings.Contains(name, "config") { // a volume's says nothing
			srv.Close()
			continue
		}
		if _, err = client.Pull(t.Context(), wire.Snapshot{Generation: 1}); string(problem.From(err).Rule) != c.rule {
			t.Errorf("%s: a volume: %v", name, err)
		}
		srv.Close()
	}
}

// TestRefusedReadIsNoDamage: of all answers only 410 says that what is stored is damaged,
// and of all that came only what isn't what was stored.
func TestRefusedReadIsNoDamage(t *testing.T) {
	c := NewClient("127.0.0.1:5000")
	ref := snapshotRef(wire.Snapshot{Volume: ident.Digest{1}, Generation: 1})
	for _, status := range []int{400, 405, 408, 418, 429, 431, 500, 503} {
		for done, err := range map[string]error{
			"explain": c.explain(t.Context(), "read", ref, &transport.Error{StatusCode: status}),
			"judge":   c.judge(t.Context(), ref, &transport.Error{StatusCode: status}),
		} {
			if p := problem.From(err); p.Rule != "registry_failed" || !strings.Contains(p.Actual, http.StatusText(status)) {
				t.Errorf("%s, %d: %v", done, status, err)
			}
		}
	}
	if p := problem.From(c.judge(t.Context(), ref, &transport.Error{StatusCode: http.StatusGone})); p.Rule != RuleDamaged {
		t.Error(p)
	}
	if p := problem.From(c.judge(t.Context(), ref, errors.New("error verifying size"))); p.Rule != RuleDamaged {
		t.Error(p)
	}
	if p := problem.From(c.explain(t.Context(), "read", ref, errors.New("malformed challenge"))); p.Rule == RuleDamaged {
		t.Error(p)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.judge(ended, ref, errors.New("x")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
