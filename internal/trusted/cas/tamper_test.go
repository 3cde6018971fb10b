package cas_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/testing/storetest"
	"cupel.dev/cupel/internal/trusted/audit"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/keyfile"
)

// history makes a session with two versions and a volume with two generations,
// and returns the store before and after the second ones.
func history(t *testing.T) (w *world, before, after *storetest.Memory) {
	w = newWorld(t)
	h := w.put(twoWriters("s"))
	v := w.mustAsk(1, "s", "a").Volumes[0]
	if err := w.tag(1, v, 0, ident.Digest{}, ident.Digest{1}); err != nil {
		t.Fatal(err)
	}
	before = w.store.Copy()
	w.put(strings.Replace(twoWriters("s"), "name: s\n", "name: s\npredecessor: "+h.String()+"\n", 1))
	if err := w.tag(1, v, 1, ident.Digest{1}, ident.Digest{2}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return w, before, w.store.Copy()
}

// TestRowPutBack: old rows under the current log are refused when they are read.
func TestRowPutBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		id     journal.RowID
		change func(m, old *storetest.Memory, id journal.RowID)
	}{
		{"older session", "session/s", func(m, old *storetest.Memory, id journal.RowID) { m.Rows[id] = old.Rows[id] }},
		{"older volume", "volume/s@v", func(m, old *storetest.Memory, id journal.RowID) { m.Rows[id] = old.Rows[id] }},
		{"older volume, newer number", "volume/s@v", func(m, old *storetest.Memory, id journal.RowID) {
			m.Rows[id] = journal.Row{ID: id, Version: m.Rows[id].Version, Sealed: old.Rows[id].Sealed}
		}},
		{"missing volume", "volume/s@v", func(m, _ *storetest.Memory, id journal.RowID) { delete(m.Rows, id) }},
		{"missing session", "session/s", func(m, _ *storetest.Memory, id journal.RowID) { delete(m.Rows, id) }},
		{"another row's bytes", "volume/s@v", func(m, _ *storetest.Memory, id journal.RowID) {
			m.Rows[id] = journal.Row{ID: id, Version: m.Rows[id].Version, Sealed: m.Rows["session/s"].Sealed}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, before, after := history(t)
			w.t = t
			c.change(after, before, c.id)
			w.store = after
			w.open()
			_, err := w.ask(2, "s", "b")
			rule(t, err, "row_rolled_back")
		})
	}
}

// TestLogChanged: a CAS does not start on a log that is not the one it wrote.
func TestLogChanged(t *testing.T) {
	for name, change := range map[string]func(m, old *storetest.Memory){
		"cut":      func(m, _ *storetest.Memory) { m.Log = m.Log[:len(m.Log)-1] },
		"emptied":  func(m, _ *storetest.Memory) { m.Log = nil },
		"old head": func(m, old *storetest.Memory) { m.Last = old.Last },
		"edited": func(m, _ *storetest.Memory) {
			m.Log = slices.Clone(m.Log)
			m.Log[2].Detail = map[string]string{"service": "other"}
		},
		"hole":     func(m, _ *storetest.Memory) { m.Log = append(slices.Clone(m.Log[:2]), m.Log[3:]...) },
		"unsigned": func(m, _ *storetest.Memory) { m.Last.Signature = nil },
		"rewritten": func(m, _ *storetest.Memory) {
			var c audit.Chain
			m.Log = slices.Clone(m.Log)
			for i := range m.Log {
				m.Log[i].Request = "forged"
				_ = c.Append(m.Log[i])
			}
			m.Last = owners.SignedHead{Seq: c.Seq, Hash: c.Hash, Time: m.Last.Time, Signature: m.Last.Signature}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, before, after := history(t)
			w.t = t
			change(after, before)
			w.store = after
			rule(t, w.try(), "audit_log_damaged")
		})
	}
}

func TestOtherKeyFile(t *testing.T) {
	w, _, _ := history(t)
	var err error
	if w.key, err = keyfile.Create(filepath.Join(t.TempDir(), "other")); err != nil {
		t.Fatal(err)
	}
	rule(t, w.try(), "sealing_key")
}

// TestWholeRollback is what the CAS alone can't notice, and clients do.
func TestWholeRollback(t *testing.T) {
	w, before, _ := history(t)
	seen := w.Head()
	w.store = before
	w.open()
	key := w.Identity().PublicKey()
	rule(t, audit.Verify(key, seen, nil, w.Head()), "audit_log_older")
	for w.Head().Seq <= seen.Seq { // it goes on, on another branch
		w.put(twoWriters("t" + strings.Repeat("x", int(w.Head().Seq))))
	}
	entries, head, err := w.Log(t.Context(), seen.Seq, 1000)
	if err != nil {
		t.Fatal(err)
	}
	rule(t, audit.Verify(key, seen, entries, head), "audit_log_forked")
}

// TestCommitFails: a refused commit changes nothing, one that was kept all the
// same counts, and where nobody can tell the CAS stops.
func TestCommitFails(t *testing.T) {
	w := newWorld(t)
	full := errors.New("no space")
	w.store.Fail = func(journal.Batch) error { return full }
	_, err := w.PutSession(t.Context(), w.owner, []byte(twoWriters("s")))
	rule(t, err, "store")
	w.store.Fail = nil
	_, err = w.GetSession(t.Context(), w.owner, "s", nil)
	rule(t, err, "session_unknown")
	w.put(twoWriters("s"))
	w.wide("s")

	w.store.Fail = func(journal.Batch) error { return full }
	_, err = w.ask(1, "s", "a")
	rule(t, err, "store")
	w.store.Fail = nil
	if v := w.mustAsk(2, "s", "a").Volumes[0]; v.Access != owners.ReadWrite || v.Lease != 1 {
		t.Errorf("the failed release took the lease: %+v", v)
	}
	_, err = w.ask(1, "s", "a")
	rule(t, err, "lease_held")

	w.store.FailAfter = func(journal.Batch) error { return full }
	w.put(twoWriters("kept"))
	w.store.FailAfter = nil
	w.put(twoWriters("next"))

	w.store.FailAfter = func(journal.Batch) error { w.store.Last.Seq += 5; return full }
	_, err = w.PutSession(t.Context(), w.owner, []byte(twoWriters("broken")))
	rule(t, err, "store")
	if err := w.Run(t.Context()); err == nil {
		t.Error("Run goes on with a broken store")
	}
	_, err = w.PutSession(t.Context(), w.owner, []byte(twoWriters("after")))
	rule(t, err, "store_changed")
}
