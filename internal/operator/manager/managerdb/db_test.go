package managerdb

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
)

func open(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?.db") // a name that a URL must escape
	db := open(t, path)
	at := time.Date(2026, 11, 1, 2, 3, 4, 5, time.UTC)
	app := &manager.App{
		ID: "app-1", Name: "shop", Owner: ident.KeyHash{1}, Session: "s", CreatedAt: at, Last: 2,
		Current: &manager.Revision{Number: 1, Session: "s", Instances: 3, Memory: 1 << 28, Port: 8080},
		Rollout: manager.Rollout{Phase: manager.PhaseFailed, Problem: problem.New(problem.Denied, "measurement", "no"), Steps: []managerapi.Step{{Name: "pull", StartedAt: at}}},
	}
	in := &manager.Replica{ID: "i-1", App: "app-1", Role: manager.RoleApp, Revision: 1, Attempt: 4, CreatedAt: at}
	token := owners.NewGrantToken(owners.GrantID{7}, [32]byte{8})
	app.Current.Grant = &manager.Grant{ID: owners.GrantID{7}, Token: token}
	notice := &manager.Notice{ID: "back:7", Token: token, Grant: owners.GrantID{7}, Since: at, AppID: "app-1"}
	code := &manager.UsedCode{Grant: owners.GrantID{7}, Code: ident.Digest{6}, App: "shop", Used: at}
	events, err := db.Apply(t.Context(), manager.Change{
		Apps: []*manager.App{app}, Replicas: []*manager.Replica{in}, Notices: []*manager.Notice{notice}, Codes: []*manager.UsedCode{code},
		Events: []manager.Event{{Event: managerapi.Event{Time: at, AppID: "app-1", App: "shop", Reason: "r", Message: "m", Warning: true}, Owner: ident.KeyHash{1}}},
	})
	if err != nil || len(events) != 1 || events[0].Seq != 1 {
		t.Fatalf("Apply: %+v, %v", events, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path)
	got, err := db.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := manager.State{
		Apps:     map[string]*manager.App{"app-1": app},
		Replicas: map[string]*manager.Replica{"i-1": in},
		Notices:  map[string]*manager.Notice{"back:7": notice},
		Codes:    map[ident.Digest]*manager.UsedCode{{6}: code},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("state (-want +got):\n%s", d)
	}
	back, err := db.Events(t.Context(), 0, manager.EventFilter{App: "shop"}, 10)
	if err != nil || cmp.Diff(events, back) != "" {
		t.Errorf("events: %v\n%s", err, cmp.Diff(events, back))
	}
	if _, err := db.Apply(t.Context(), manager.Change{DeleteApps: []string{"app-1"}, DeleteReplicas: []string{"i-1"}, DeleteNotices: []string{"back:7"}}); err != nil {
		t.Fatal(err)
	}
	if got, _ := db.Load(t.Context()); len(got.Apps)+len(got.Replicas)+len(got.Notices) != 0 || len(got.Codes) != 1 {
		t.Errorf("left: %+v; want the used code alone", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file with tokens: %v, %v", info.Mode(), err)
	}
}

// TestStateFromBeforeGrants opens a database of the first schema.
func TestStateFromBeforeGrants(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	old, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	doc := `{"id":"app-1","name":"shop","session":"s","last":1,"current":{"number":1,"session":"s","instances":3},"rollout":{"revision":1,"phase":"done","steps":[]}}`
	for _, q := range []string{migrations[0], "PRAGMA user_version = 1", "INSERT INTO app VALUES ('app-1', '" + doc + "')"} {
		if _, err := old.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	_ = old.Close()
	got, err := open(t, path).Load(t.Context())
	if err != nil || got.Apps["app-1"] == nil || got.Apps["app-1"].Current.Grant != nil || got.Notices == nil || got.Codes == nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestEventsAreFilteredAndBounded(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "m.db"))
	db.kept, db.keptOfOwner = 100, 60
	alice, bob := ident.KeyHash{1}, ident.KeyHash{2}
	for i := range 2 * spare / 10 {
		var c manager.Change
		for j := range 10 {
			owner := alice
			if j%2 == 1 {
				owner = bob
			}
			c.Events = append(c.Events, manager.Event{Event: managerapi.Event{Time: time.Now(), Reason: fmt.Sprint(i)}, Owner: owner})
		}
		if _, err := db.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	all, err := db.Events(t.Context(), 0, manager.EventFilter{}, 1<<20)
	if err != nil || len(all) != 100 || all[99].Seq != 2*spare {
		t.Errorf("%d events are kept, the last %d; %v", len(all), all[len(all)-1].Seq, err)
	}
	mine, err := db.Events(t.Context(), all[49].Seq, manager.EventFilter{Owner: alice}, 10)
	if err != nil || len(mine) != 10 || mine[0].Owner != alice || mine[0].Seq <= all[49].Seq {
		t.Errorf("%+v, %v", mine, err)
	}
}

// TestNobodysEventsPushOutAnothers: also where many come at once.
func TestNobodysEventsPushOutAnothers(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "m.db"))
	db.kept, db.keptOfOwner = 10_000, 1000
	alice, mallory := ident.KeyHash{1}, ident.KeyHash{2}
	write := func(owner ident.KeyHash, n int) {
		var c manager.Change
		for range n {
			c.Events = append(c.Events, manager.Event{Event: managerapi.Event{Time: time.Now(), Reason: "x"}, Owner: owner})
		}
		if _, err := db.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	write(alice, 20)
	for range 7 {
		write(mallory, 3*spare+1)
	}
	for owner, want := range map[ident.KeyHash]int{alice: 20, mallory: 1000} {
		got, err := db.Events(t.Context(), 0, manager.EventFilter{Owner: owner}, 1<<20)
		if err != nil || len(got) != want {
			t.Errorf("%d events of %s are left, want %d; %v", len(got), owner.Short(), want, err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	db := open(t, path)
	if _, err := db.db.ExecContext(t.Context(), fmt.Sprintf("PRAGMA user_version = %d", len(migrations)+1)); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	_, err := Open(t.Context(), path)
	if p := problem.From(err); err == nil || p.Rule != "schema_newer" || p.Mend == "" {
		t.Errorf("Open: %v", err)
	}
}

func TestFailedChangeLeavesNothing(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "m.db"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.Apply(ctx, manager.Change{Apps: []*manager.App{{ID: "x"}}}); err == nil {
		t.Errorf("Apply with a cancelled context: no error")
	}
	if got, err := db.Load(t.Context()); err != nil || len(got.Apps) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestFullDisk(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "m.db"))
	db.db.SetMaxOpenConns(1)
	var pages int
	if err := db.db.QueryRowContext(t.Context(), "PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if _, err := db.db.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
		t.Fatal(err)
	}
	big := &manager.App{ID: "x", Name: strings.Repeat("x", 1<<20)}
	_, err := db.Apply(t.Context(), manager.Change{Apps: []*manager.App{big}})
	if p := problem.From(err); err == nil || p.Rule != "disk_full" {
		t.Errorf("Apply: %v", err)
	}
	if got, err := db.Load(t.Context()); err != nil || len(got.Apps) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
