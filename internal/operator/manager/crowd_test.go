package manager_test

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/manager"
)

// TestStrangersConnections: whoever opens connections without end gets a quarter
// of those that there are, and keeps nobody out.
func TestStrangersConnections(t *testing.T) {
	cert, _ := keyPair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	w := newWorld(t, nil)
	api := &manager.API{Manager: w.m, Log: slog.New(slog.DiscardHandler), Info: func() managerapi.Info { return managerapi.Info{Release: "test"} }}
	go func() { done <- api.Serve(ctx, ln, cert) }()

	const many, part = 400, 256
	closed := make(chan struct{}, many)
	for range many {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			_, _ = c.Read(make([]byte, 1)) // until one side closes it
			closed <- struct{}{}
		}()
	}
	for gone := range many - part {
		select {
		case <-closed:
		case <-time.After(time.Minute):
			t.Fatalf("%d of %d connections were closed", gone, many)
		}
	}

	c := client.NewManager(ident.Address(ln.Addr().String()), client.ManagerOptions{CertSHA256: ident.Sum(cert.Certificate[0])})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // whoever came just now is not closed yet
		info, err := c.Info(t.Context())
		if err == nil && info.Release == "test" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("somebody else: %v", err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNamesBelongToKeys: what a stranger calls their app keeps no owner from the
// name, and leads nobody to another's app.
func TestNamesBelongToKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		theirs, err := w.m.Deploy(t.Context(), mallory, managerapi.DeployRequest{Version: 1, Session: "alice/shop", Runtime: "python", Ungranted: true})
		if err != nil || theirs.Name != "alice-shop" {
			t.Fatalf("%+v, %v", theirs, err)
		}
		a := w.settled(w.deploy(request()).ID)
		if a.Name != "alice-shop" || a.ID == theirs.ID {
			t.Errorf("alice's app is called %s", a.Name)
		}
		for caller, want := range map[ident.KeyHash]string{alice: a.ID, mallory: theirs.ID} {
			if got, err := w.m.App(caller, "alice-shop"); err != nil || got.ID != want {
				t.Errorf("%s finds %s, %v", caller.Short(), got.ID, err)
			}
		}
		_, err = w.m.App(operator, "alice-shop")
		if p := problem.From(err); p == nil || p.Rule != "app_name_ambiguous" {
			t.Errorf("the operator: %v", err)
		}
		err = w.m.Events(t.Context(), operator, manager.EventQuery{App: "alice-shop"}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: func(e managerapi.Event) error {
			t.Errorf("the operator sees, of whosever app, %v", e)
			return nil
		}})
		if p := problem.From(err); p == nil || p.Rule != "app_name_ambiguous" {
			t.Errorf("the operator's look at events: %v", err)
		}
		err = w.m.Events(t.Context(), operator, manager.EventQuery{App: ident.AppRef(a.ID)}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: func(e managerapi.Event) error {
			if e.AppID != a.ID {
				t.Errorf("an event of another app: %v", e)
			}
			return nil
		}})
		if err != nil {
			t.Error(err)
		}
		if _, err := w.m.App(ident.KeyHash{77}, "alice-shop"); problem.KindOf(err) != problem.Denied {
			t.Errorf("somebody else: %v", err)
		}
		if _, err := w.m.RemoveApp(t.Context(), operator, ident.AppRef(theirs.ID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		names := []string{}
		for _, a := range w.m.Apps(operator) {
			names = append(names, a.ID)
		}
		if !slices.Equal(names, []string{a.ID}) {
			t.Errorf("left: %v", names)
		}

		if _, err := w.m.RemoveApp(t.Context(), operator, ident.AppRef(a.ID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		for _, c := range []struct {
			who              ident.KeyHash
			ref, of, refused string
		}{
			{operator, "alice-shop", "", "app_name_ambiguous"},
			{operator, a.ID, a.ID, ""},
			{operator, theirs.ID, theirs.ID, ""},
			{alice, "alice-shop", a.ID, ""},
		} {
			shown := 0
			err := w.m.Events(t.Context(), c.who, manager.EventQuery{App: ident.AppRef(c.ref)}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: func(e managerapi.Event) error {
				shown++
				if e.AppID != c.of {
					t.Errorf("%s of a removed app: %v", c.ref, e)
				}
				return nil
			}})
			if p := problem.From(err); (shown == 0) != (c.refused != "") || err != nil && (string(p.Rule) != c.refused || !strings.Contains(p.Expected, theirs.ID)) {
				t.Errorf("%s of a removed app: %d events, %v", c.ref, shown, err)
			}
		}
	})
}
