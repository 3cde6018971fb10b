package registry

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestImpossibleNamesAreNoDamage: who asks for what can't be stored learns that it isn't,
// and doesn't fill the operator's log with it: every instance may read.
func TestImpossibleNamesAreNoDamage(t *testing.T) {
	var said bytes.Buffer
	s, err := Open(t.Context(), t.TempDir(), slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, path := range []string{
		"runtimes/python/manifests/" + strings.Repeat("a", 300),
		"runtimes/python/manifests/a%00b",
		"runtimes/python/manifests/" + strings.Repeat("b", 200000),
		strings.Repeat("a", 300) + "/manifests/latest",
		strings.Repeat("a/", 3000) + "a/blobs/sha256:" + strings.Repeat("0", 64),
		strings.Repeat("a", 300) + "/tags/list",
		"runtimes/py%00thon/manifests/latest",
	} {
		said.Reset()
		answer := httptest.NewRecorder()
		s.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/v2/"+path, nil))
		if answer.Code != http.StatusNotFound && answer.Code != http.StatusBadRequest {
			t.Errorf("%.60s…: %d %.300s", path, answer.Code, answer.Body)
		}
		if strings.Contains(said.String(), "damaged") || said.Len() > 10*maxLine {
			t.Errorf("%.60s…: the log has %d bytes: %.150q", path, said.Len(), said.String())
		}
	}
}
