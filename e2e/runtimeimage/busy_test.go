//go:build e2e

package runtimeimage

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPullBusyLFS: a server of files in Git LFS that can't serve now is called so,
// whatever it writes beside the status.
func TestPullBusyLFS(t *testing.T) {
	p := newPlace(t, unpacked(t, "puller"))
	p.edit("\npauses='5 15 30'", "\npauses='0'")
	model := p.s.keepLFS(t, []byte("model"))
	p.s.repository(t, "app.git", map[string]string{"f": "x", ".gitattributes": "*.bin filter=lfs\n", "m.bin": model}, nil)
	object := strings.TrimPrefix(strings.Split(model, "\n")[1], "oid sha256:")
	answers := func(end string, status int, wait, text string, times int) {
		p.s.instead = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, end) || times == 0 {
				return false
			}
			times--
			if wait != "" {
				w.Header().Set("Retry-After", wait)
			}
			w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
			w.WriteHeader(status)
			fmt.Fprintln(w, text)
			return true
		}
	}
	const message = `{"message":"told so: not found"}`
	for _, end := range []string{"/objects/batch", "/" + object} {
		for status, code := range map[int]int{429: 80, 500: 80, 503: 80, 403: 65, 404: 73} {
			answers(end, status, "", message, -1)
			p.refused("/app.git", code)
		}
		answers(end, http.StatusTooManyRequests, "1", message, -1)
		p.refused("/app.git", 80, "the server answers 429")
		answers(end, http.StatusNotFound, "", "", -1)
		p.refused("/app.git", 73, "does the server have it?")
		answers(end, http.StatusServiceUnavailable, "", message, 1)
		p.pulls("/app.git")
		p.holds("m.bin", "model")
		if err := os.RemoveAll(filepath.Join(p.home, "repo")); err != nil {
			t.Fatal(err)
		}
	}
	p.noHeaders()
}
