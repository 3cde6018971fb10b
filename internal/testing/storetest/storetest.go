// Package storetest is the suite that every journal.Store passes, and Memory, the store that
// tests of the CAS use. Run in storetest.go tells in its order what a store has to do. A
// Memory may be used by several goroutines.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas/journal"
)

// Run runs the suite. open returns the same store each time, as after a restart:
// what was committed before is there.
func Run(t *testing.T, open func(t *testing.T) (store journal.Store, closeStore func())) {
	t.Helper()
	ctx := context.Background()
	store, closeStore := open(t)
	empty(ctx, t, store)

	commit(ctx, t, store, batch(1, 3, row("a", 1, "one"), row("b", 1, "two"), row("c", 1, "")))
	commit(ctx, t, store, batch(4, 4, row("a", 2, "uno")))
	want(ctx, t, store, row("a", 2, "uno"), row("b", 1, "two"), row("c", 1, ""))

	// A nil row is removed, an absent one too; an empty one stays.
	commit(ctx, t, store, batch(5, 5, journal.Row{ID: "b", Version: 2}, journal.Row{ID: "never", Version: 1}))
	absent(ctx, t, store, "b", "never")

	// A batch that can't be kept changes nothing: number 5 is taken.
	if err := store.Commit(ctx, batch(5, 5, row("a", 9, "nine"), row("new", 1, "x"))); err == nil {
		t.Error("a second record with the same number was kept")
	}
	want(ctx, t, store, row("a", 2, "uno"))
	absent(ctx, t, store, "new")
	checkLog(ctx, t, store, 5)

	closeStore()
	store, closeStore = open(t)
	defer closeStore()
	want(ctx, t, store, row("a", 2, "uno"), row("c", 1, ""))
	checkLog(ctx, t, store, 5)
	concurrent(ctx, t, store)
	large(ctx, t, store)
}

// large entries come in pages that end somewhere, and lead on.
func large(ctx context.Context, t *testing.T, s journal.Store) {
	t.Helper()
	before, err := s.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}

	const n, size = 40, 500_000
	for i := range uint64(n) {
		b := batch(before.Seq+1+i, before.Seq+1+i)
		b.Entries[0].Detail["services"] = strings.Repeat("x", size)
		commit(ctx, t, s, b)
	}

	pages, after := 0, before.Seq

	for {
		page, err := s.Entries(ctx, after, 1000)
		if err != nil {
			t.Fatal(err)
		}

		if len(page) == 0 {
			break
		}

		if len(page) > journal.PageBytes/size+1 {
			t.Errorf("a page of %d entries of %d bytes", len(page), size)
		}

		for _, e := range page {
			if after++; e.Seq != after {
				t.Fatalf("entry %d after %d", e.Seq, after-1)
			}
		}

		pages++
	}

	if after != before.Seq+n || pages < 2 {
		t.Errorf("%d pages end at entry %d, want %d", pages, after, before.Seq+n)
	}
}

// empty is a store in which nothing was committed.
func empty(ctx context.Context, t *testing.T, s journal.Store) {
	t.Helper()
	if h, err := s.Head(ctx); err != nil || h.Seq != 0 || !h.Hash.IsZero() {
		t.Errorf("head of an empty store: %+v, %v", h, err)
	}

	if e, err := s.Entries(ctx, 0, 10); err != nil || len(e) != 0 {
		t.Errorf("entries of an empty store: %v, %v", e, err)
	}

	absent(ctx, t, s, "a")
}

// row is a row with a content.
func row(id journal.RowID, version uint64, text string) journal.Row {
	return journal.Row{ID: id, Version: version, Sealed: append([]byte{}, text...)}
}

// batch has the entries from first to last, and rows.
func batch(first, last uint64, rows ...journal.Row) journal.Batch {
	b := journal.Batch{Rows: rows, Head: head(last)}
	for seq := first; seq <= last; seq++ {
		b.Entries = append(b.Entries, entry(seq))
	}

	return b
}

// head is the head after an entry.
func head(seq uint64) owners.SignedHead {
	return owners.SignedHead{
		Seq:       seq,
		Hash:      ident.Sum(fmt.Append(nil, seq)),
		Time:      int64(seq) * 1e9,
		Signature: []byte{1, byte(seq)},
	}
}

// entry is the one with a number, with all that an entry may have.
func entry(seq uint64) owners.Entry {
	return owners.Entry{
		Seq:     seq,
		Time:    int64(seq),
		Event:   owners.EventSessionCreated,
		Actor:   ident.KeyHash{byte(seq)},
		Request: "r",
		Session: "a/b",
		Detail:  map[string]string{"n": fmt.Sprint(seq), "odd": "\x00 \u2028 <&> \"'"},
		Rows:    []owners.Row{{ID: "x", Version: 1 << 62, Hash: ident.Digest{byte(seq)}}},
	}
}

// commit commits, or ends the test.
func commit(ctx context.Context, t *testing.T, s journal.Store, b journal.Batch) {
	t.Helper()
	if err := s.Commit(ctx, b); err != nil {
		t.Fatal(err)
	}
}

// want says that rows are there.
func want(ctx context.Context, t *testing.T, s journal.Store, rows ...journal.Row) {
	t.Helper()
	for _, r := range rows {
		got, ok, err := s.Row(ctx, r.ID)
		if err != nil || !ok || got.ID != r.ID || got.Version != r.Version || !bytes.Equal(got.Sealed, r.Sealed) {
			t.Errorf("row %s: %+v, %v, %v; want %+v", r.ID, got, ok, err, r)
		}
	}
}

// absent says that rows are not there.
func absent(ctx context.Context, t *testing.T, s journal.Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, ok, err := s.Row(ctx, journal.RowID(id)); ok || err != nil {
			t.Errorf("row %s: %v, %v; want none", id, ok, err)
		}
	}
}

// checkLog reads the log from each place on, in pages of several sizes.
func checkLog(ctx context.Context, t *testing.T, s journal.Store, last uint64) {
	t.Helper()
	if h, err := s.Head(ctx); err != nil || cmp.Diff(h, head(last)) != "" {
		t.Errorf("head %+v, %v", h, err)
	}

	for after := uint64(0); after <= last+1; after++ {
		for _, limit := range []int{1, 2, 100} {
			got, err := s.Entries(ctx, after, limit)
			if err != nil {
				t.Fatal(err)
			}

			var want []owners.Entry
			for seq := after + 1; seq <= last && len(want) < limit; seq++ {
				want = append(want, entry(seq))
			}

			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("entries after %d, at most %d: %s", after, limit, d)
			}
		}
	}
}

// concurrent reads while it writes: a reader sees whole commits.
func concurrent(ctx context.Context, t *testing.T, s journal.Store) {
	t.Helper()
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}

				r, ok, err := s.Row(ctx, "a")
				if err != nil || !ok || string(r.Sealed) != fmt.Sprint(r.Version) && r.Version > 2 {
					t.Errorf("row %+v, %v, %v", r, ok, err)
					return
				}
			}
		})
	}

	for v := uint64(6); v < 60; v++ {
		commit(ctx, t, s, batch(v, v, row("a", v, fmt.Sprint(v))))
	}

	close(stop)
	readers.Wait()
}
