package manager

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/ident"
)

// TestSilentManager: a manager that takes a question and never answers is no manager
// that isn't there.
func TestSilentManager(t *testing.T) {
	end := make(chan struct{})
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end }))
	defer s.Close()
	defer close(end)
	for _, c := range []struct {
		name string
		opts Options
		mend string
	}{
		{"of this machine", Options{PID: os.Getpid()}, fmt.Sprintf("cupeld (process %d) runs: try again; if it stays silent, as root: kill -9 %d, then cupel up: apps go on", os.Getpid(), os.Getpid())},
		{"that ended", Options{PID: 1 << 22}, "start it: cupel up"},
		{"of another machine", Options{Remote: true}, "check the address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opts.CertSHA256 = ident.Sum(s.Certificate().Raw)
			m := New(strings.TrimPrefix(s.URL, "https://"), c.opts)
			defer m.Close()
			transport, ok := m.quick.Transport.(*http.Transport)
			if !ok || transport.ResponseHeaderTimeout != readTimeout {
				t.Fatal("a question has no limit")
			}
			transport.ResponseHeaderTimeout = 50 * time.Millisecond
			_, err := m.Apps(t.Context())
			if err == nil || !strings.Contains(err.Error(), "doesn't answer") || !strings.Contains(err.Error(), c.mend) {
				t.Errorf("%v", err)
			}
		})
	}
}
