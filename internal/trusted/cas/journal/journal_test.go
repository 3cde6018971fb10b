package journal_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/storetest"
	"cupel.dev/cupel/internal/trusted/audit"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/keyfile"
)

// desk is a journal with what it needs, which can be opened again.
type desk struct {
	*journal.Journal
	t     *testing.T
	store *storetest.Memory
	seal  journal.Sealer
	key   *ecdsa.PrivateKey
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	seal, err := keyfile.Create(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, store: storetest.NewMemory(), seal: seal, key: key}
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) open() error {
	j := journal.New(d.store, d.seal, slog.New(slog.DiscardHandler), time.Now)
	head, err := j.Replay(d.t.Context())
	if err != nil {
		return err
	}
	if err := j.Start(d.key, head); err != nil {
		return err
	}
	d.Journal = j
	d.t.Cleanup(j.Close)
	return nil
}

// put commits one change that writes rows, in pairs of id and text; an empty text
// removes the row.
func (d *desk) put(pairs ...string) owners.SignedHead {
	d.t.Helper()
	ch := journal.Change{Event: owners.EventSessionUpdated}
	for p := range slices.Chunk(pairs, 2) {
		w := journal.Write{ID: journal.RowID(p[0])}
		if p[1] != "" {
			w.Plain = []byte(p[1])
		}
		ch.Rows = append(ch.Rows, w)
	}
	head, err := d.Commit(d.t.Context(), ch)
	if err != nil {
		d.t.Fatal(err)
	}
	return head
}

func (d *desk) want(id, text string) {
	d.t.Helper()
	plain, err := d.Read(d.t.Context(), journal.RowID(id))
	if err != nil || string(plain) != text {
		d.t.Errorf("row %s: %q, %v; want %q", id, plain, err, text)
	}
}

func wantRule(t *testing.T, err error, want problem.Rule) {
	t.Helper()
	if !problem.Is(err, want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestRows: rows are what was written last, in this process and the next.
func TestRows(t *testing.T) {
	d := newDesk(t)
	d.put("a/1", "one", "a/2", "two", "b", "three")
	d.put("a/1", "other", "b", "")
	for range 2 {
		d.want("a/1", "other")
		d.want("a/2", "two")
		d.want("b", "")
		d.want("never", "")
		if got := d.IDs("a/"); !slices.Equal(got, []journal.RowID{"a/1", "a/2"}) {
			t.Errorf("rows: %v", got)
		}
		if !d.Has("a/2") || d.Has("b") {
			t.Error("Has knows a row that was removed, or none that is there")
		}
		d.Close()
		if err := d.open(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOneRowTwice: two changes of one commit that write the same row have an entry
// each, with versions of their own, and the row is the later one's.
func TestOneRowTwice(t *testing.T) {
	d := newDesk(t)
	write := func(text string) journal.Change {
		return journal.Change{Event: owners.EventSessionUpdated, Rows: []journal.Write{{ID: "a", Plain: []byte(text)}}}
	}
	head, err := d.Commit(t.Context(), write("first"), write("second"))
	if err != nil {
		t.Fatal(err)
	}
	d.want("a", "second")

	entries, _, err := d.Entries(t.Context(), 0, 10)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i, e := range entries {
		if e.Rows[0].Version != uint64(i+1) {
			t.Errorf("entry %d has version %d of the row", e.Seq, e.Rows[0].Version)
		}
	}
	if err := audit.Verify(&d.key.PublicKey, owners.SignedHead{}, entries, head); err != nil {
		t.Errorf("the log doesn't verify: %v", err)
	}
}

// TestGroups: changes of many callers are all kept, each with an entry.
func TestGroups(t *testing.T) {
	d := newDesk(t)
	const callers = 3 * journal.MaxGroup
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			_, err := d.Commit(t.Context(), journal.Change{
				Event: owners.EventSessionUpdated,
				Rows:  []journal.Write{{ID: journal.RowID(fmt.Sprintf("row/%d", i)), Plain: []byte{1}}},
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := len(d.IDs("row/")); n != callers || d.Head().Seq != callers {
		t.Errorf("%d rows, %d entries, want %d", n, d.Head().Seq, callers)
	}
}

// TestStoreIsNotTrusted: rows that are not the log's are refused, and a log that is
// not this journal's ends the start.
func TestStoreIsNotTrusted(t *testing.T) {
	d := newDesk(t)
	d.put("a", "one", "b", "two")
	old := d.store.Copy()
	d.put("a", "next")
	d.Close()
	kept := d.store.Copy()

	for _, c := range []struct {
		name   string
		change func(m *storetest.Memory)
		start  problem.Rule
		read   problem.Rule
	}{
		{"older row", func(m *storetest.Memory) { m.Rows["a"] = old.Rows["a"] }, "", "row_rolled_back"},
		{"no row", func(m *storetest.Memory) { delete(m.Rows, "a") }, "", "row_rolled_back"},
		{"another's row", func(m *storetest.Memory) { m.Rows["a"] = journal.Row{ID: "a", Version: 2, Sealed: m.Rows["b"].Sealed} }, "", "row_rolled_back"},
		{"older head", func(m *storetest.Memory) { m.Last = old.Last }, "audit_log_damaged", ""},
		{"shorter log", func(m *storetest.Memory) { m.Log = m.Log[:1] }, "audit_log_damaged", ""},
		{"no signature", func(m *storetest.Memory) { m.Last.Signature = nil }, "audit_log_damaged", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d.t, d.store = t, kept.Copy()
			c.change(d.store)
			err := d.open()
			if c.start != "" {
				wantRule(t, err, c.start)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.Read(t.Context(), "a")
			wantRule(t, err, c.read)
			d.want("b", "two")
		})
	}
}

// TestOtherKey: a log that another key signed is none of this journal's.
func TestOtherKey(t *testing.T) {
	d := newDesk(t)
	d.put("a", "one")
	d.Close()
	var err error
	if d.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	wantRule(t, d.open(), "audit_log_damaged")
}

// TestCommitFails: a refused commit changes nothing; one that the store kept all the
// same counts; where nobody can tell, the journal takes none any more.
func TestCommitFails(t *testing.T) {
	d := newDesk(t)
	d.put("a", "one")
	ch := journal.Change{Event: owners.EventSessionUpdated, Rows: []journal.Write{{ID: "a", Plain: []byte("two")}}}
	full := errors.New("no space")

	d.store.Fail = func(journal.Batch) error { return full }
	_, err := d.Commit(t.Context(), ch)
	wantRule(t, err, problem.RuleStore)
	d.store.Fail = nil
	d.want("a", "one")

	d.store.FailAfter = func(journal.Batch) error { return full }
	if _, err := d.Commit(t.Context(), ch); err != nil {
		t.Errorf("kept, and refused: %v", err)
	}
	d.want("a", "two")
	if err := d.Healthy(); err != nil {
		t.Error(err)
	}

	d.store.FailAfter = func(journal.Batch) error { d.store.Last.Seq += 5; return full }
	_, err = d.Commit(t.Context(), ch)
	wantRule(t, err, problem.RuleStore)
	<-d.Failed()
	wantRule(t, d.Broken(), "store_changed")
	wantRule(t, d.Healthy(), problem.RuleStore)
	_, err = d.Commit(t.Context(), ch)
	wantRule(t, err, "store_changed")
}

// TestClosed: what comes after the end is refused.
func TestClosed(t *testing.T) {
	d := newDesk(t)
	d.put("a", "one")
	d.Close()
	_, err := d.Commit(t.Context(), journal.Change{Event: owners.EventSessionUpdated})
	wantRule(t, err, "stopping")
	wantRule(t, d.Healthy(), "stopping")
	d.want("a", "one")
}
