package cas_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/wire"
)

// allRows lists the ids of all rows that the store has, but for the CAS's own.
func (w *world) allRows() []journal.RowID {
	w.store.Lock()
	defer w.store.Unlock()
	ids := slices.Sorted(maps.Keys(w.store.Rows))
	return slices.DeleteFunc(ids, func(id journal.RowID) bool {
		return strings.HasPrefix(string(id), "meta/") || strings.HasPrefix(string(id), "platform/")
	})
}

// TestRemove: a session's grants and instances end, its values, versions and
// volume keys go, and its name stays its creator's.
func TestRemove(t *testing.T) {
	w := newWorld(t)
	text := twoWriters("s") + "secrets: [{name: made, kind: ascii, export_public: true}]\n"
	w.put(text)
	if err := w.update(w.owner, "s", text+"access_policy: {read: [ANY]}"); err != nil {
		t.Fatal(err)
	}
	value := func() string {
		v, err := w.Values(t.Context(), cas.Caller{}, cas.ValueRef{Session: "s", Secret: "made"})
		if err != nil {
			t.Fatal(err)
		}
		return v.Values["made"].Value
	}
	secret := value()
	token := w.wide("s")
	reply := w.mustAsk(1, "s", "a")
	w.mustAsk(2, "s", "r")
	unclaimed := w.submit(w.owner, "s", services{"r": {Instances: 1}})

	removed := w.remove(w.owner, "s")
	if removed.Versions != 2 || removed.Grants != 2 || removed.Instances != 2 || !slices.Equal(removed.Volumes, []string{"v"}) {
		t.Errorf("removed: %+v", removed)
	}
	for _, row := range w.allRows() {
		if row != "session/s" && !strings.HasPrefix(string(row), "grant/") && !strings.HasPrefix(string(row), "instance/") {
			t.Errorf("row %s is left", row)
		}
	}
	if n := w.events(); n[owners.EventSessionRemoved] == 0 || n[owners.EventGrantEnded] != 2 || n[owners.EventInstanceWithdrawn] != 2 {
		t.Errorf("the log: %v", n)
	}

	gone := func() {
		t.Helper()
		_, err := w.GetSession(t.Context(), w.owner, "s", nil)
		rule(t, err, "session_unknown")
		_, err = w.RemoveSession(t.Context(), w.owner, "s")
		rule(t, err, "session_unknown")
		_, err = w.askUnder(token, 3, "s", "r")
		rule(t, err, "session_unknown")
		_, err = w.Claim(t.Context(), provider, owners.Claim{Version: wire.ReleaseVersion, Code: unclaimed.Code})
		rule(t, err, "session_unknown")
		rule(t, w.beat(1), "instance_withdrawn")
		rule(t, w.tag(1, reply.Volumes[0], 0, ident.Digest{}, ident.Digest{1}), "instance_withdrawn")
		if err := w.GiveBack(t.Context(), provider, owners.GiveBack{Version: wire.ReleaseVersion, Grant: token}); err != nil {
			t.Errorf("give back: %v", err)
		}
		rule(t, w.upload(caller(7, "192.0.2.7"), readers("s")), "session_name_kept")
	}
	gone()
	w.restart()
	gone()

	// The creator has the name again, with nothing of what was.
	w.put(text)
	if value() == secret {
		t.Error("the generated value is the old one")
	}
	_, err := w.askUnder(token, 4, "s", "r")
	rule(t, err, "grant_ended")
	delete(w.tokens, "s")
	again := w.mustAsk(5, "s", "a")
	if v := again.Volumes[0]; v.Generation != 0 || v.ID == reply.Volumes[0].ID || string(v.Key) == string(reply.Volumes[0].Key) {
		t.Error("the volume is the old one")
	}
	if used := w.Used(w.owner.Key); used["sessions"] != 1 || used["names"] != 1 || used["versions"] != 1 {
		t.Errorf("counted: %v", used)
	}
	w.restart()
	if used := w.Used(w.owner.Key); used["sessions"] != 1 || used["names"] != 1 || used["versions"] != 1 {
		t.Errorf("counted after a restart: %v", used)
	}
}

// TestRemoveNeedsTheRight to update, and a namespace without sessions.
func TestRemoveNeedsTheRight(t *testing.T) {
	w := newWorld(t)
	w.put(small("n", "access_policy: {read: [ANY], create_sessions: [ANY]}"))
	w.put(small("n/a"))
	w.put(small("n/a/b"))

	_, err := w.RemoveSession(t.Context(), caller(7, "192.0.2.7"), "n")
	rule(t, err, "access_policy")
	_, err = w.RemoveSession(t.Context(), cas.Caller{}, "n/a/b")
	rule(t, err, "access_policy")
	_, err = w.RemoveSession(t.Context(), w.owner, "n")
	rule(t, err, "session_has_children")
	_, err = w.RemoveSession(t.Context(), w.owner, "n/a")
	rule(t, err, "session_has_children")

	w.remove(w.owner, "n/a/b")
	w.remove(w.owner, "n/a")
	w.remove(w.owner, "n")
	rule(t, w.upload(w.owner, small("n/a")), "namespace_unknown")
	w.put(small("n"))
	w.put(small("n/a"))
}

// TestRemoveWithoutGrants: instances of a session that asks for none end as well.
func TestRemoveWithoutGrants(t *testing.T) {
	w := newWorld(t)
	w.put(twoWriters("s") + "access_policy: {deploy: [ANY]}\n")
	if _, err := w.askUnder(owners.GrantToken{}, 1, "s", "a"); err != nil {
		t.Fatal(err)
	}
	if removed := w.remove(w.owner, "s"); removed.Instances != 1 {
		t.Errorf("removed: %+v", removed)
	}
	rule(t, w.beat(1), "instance_withdrawn")
}

// TestRemoveManyVersions: their rows go in entries of bounded size, all at once or
// not at all.
func TestRemoveManyVersions(t *testing.T) {
	w := newWorld(t)
	w.put(small("s"))
	for i := range 600 {
		if err := w.update(w.owner, "s", small("s", fmt.Sprintf("volumes: [{name: v%d}]", i))); err != nil {
			t.Fatal(err)
		}
	}
	before := len(w.allRows())

	w.store.Lock()
	w.store.Fail = func(journal.Batch) error { return errors.New("disk full") }
	w.store.Unlock()
	if _, err := w.RemoveSession(t.Context(), w.owner, "s"); err == nil {
		t.Fatal("removed by a store that failed")
	}
	w.store.Lock()
	w.store.Fail = nil
	w.store.Unlock()
	if _, err := w.GetSession(t.Context(), w.owner, "s", nil); err != nil || len(w.allRows()) != before {
		t.Errorf("half removed: %v, %d rows of %d", err, len(w.allRows()), before)
	}

	if removed := w.remove(w.owner, "s"); removed.Versions != 601 {
		t.Errorf("removed %d versions", removed.Versions)
	}
	if rows := w.allRows(); len(rows) != 1 {
		t.Errorf("%d rows are left", len(rows))
	}
	entries, _, err := w.Log(context.Background(), 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if len(e.Rows) > 250 {
			t.Errorf("an entry of %d rows", len(e.Rows))
		}
	}
}

// TestNamesAreCounted: removing and creating makes no names without end.
func TestNamesAreCounted(t *testing.T) {
	w := newWorldWith(t, "key-sessions=1")
	who := caller(1, "192.0.2.1")
	for i := range 10 {
		name := fmt.Sprintf("s%d", i)
		if err := w.upload(who, small(name)); err != nil {
			t.Fatal(err)
		}
		w.remove(who, ident.SessionName(name))
	}
	rule(t, w.upload(who, small("s10")), "quota_key_names")
	if err := w.upload(who, small("s3")); err != nil {
		t.Errorf("a name of its own: %v", err)
	}
}
