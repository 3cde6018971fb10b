package containerd_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
)

// TestDamagedImage: what a registry has damaged of an image is told with the runtime to
// build anew, and fetched when that was done.
func TestDamagedImage(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer func() { l.leave() }()
	instead := func(kind string, status int, of func([]byte) []byte) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				was := httptest.NewRecorder()
				next.ServeHTTP(was, r)
				body := was.Body.Bytes()
				if strings.Contains(r.URL.Path, "/"+kind+"/") {
					if status != http.StatusOK {
						w.WriteHeader(status)
						return
					}
					body = of(body)
				}
				for _, h := range []string{"Content-Type", "Docker-Content-Digest"} {
					w.Header()[h] = was.Header()[h]
				}
				_, _ = w.Write(body)
			})
		}
	}
	same := func(b []byte) []byte { return b }
	for _, c := range []struct {
		kind   string
		status int
		of     func([]byte) []byte
		rule   string
	}{
		{"blobs", http.StatusOK, func([]byte) []byte { return nil }, "image_fetch"},
		{"blobs", http.StatusOK, func(b []byte) []byte { return b[:len(b)/2] }, "image_fetch"},
		{"blobs", http.StatusOK, func(b []byte) []byte { return append(b, 0) }, "image_fetch"},
		{"blobs", http.StatusOK, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "image_fetch"},
		{"blobs", http.StatusGone, same, "image_fetch"},
		{"blobs", http.StatusNotFound, same, "image_missing"},
		{"manifests", http.StatusGone, same, "image_fetch"},
	} {
		m.registry = instead(c.kind, c.status, c.of)
		_, err := l.node.EnsureImage(t.Context(), l.image)
		p := problem.From(err)
		if err == nil || string(p.Rule) != c.rule || !strings.Contains(p.Mend, "cupel runtime build app") {
			t.Errorf("%s, %d: %v; want %s", c.kind, c.status, err, c.rule)
		}
	}
	m.registry = nil
	if _, err := l.node.EnsureImage(t.Context(), l.image); err != nil {
		t.Error(err)
	}
}
