package cas_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestVolumesMoveTogether: an instance with several volumes commits all of them or
// none, whatever is wrong with one, and wherever the store fails.
func TestVolumesMoveTogether(t *testing.T) {
	w := newWorld(t)
	w.put(strings.NewReplacer(
		"[{name: v}]", "[{name: v}, {name: u}, {name: w}]",
		"{name: v, path: /v, update_policy: rollback_protected}", "{name: v, path: /v, update_policy: rollback_protected}, {name: u, path: /u, update_policy: rollback_protected}, {name: w, path: /w, update_policy: ephemeral}",
	).Replace(twoWriters("s")))

	got := w.mustAsk(1, "s", "a").Volumes
	slices.SortFunc(got, func(a, b wire.Volume) int { return strings.Compare(a.Name, b.Name) })
	u, v, readOnly := got[0], got[1], got[2]
	move := func(v wire.Volume, tag byte) wire.TagMove {
		return wire.TagMove{Volume: v.ID, Lease: v.Lease, From: v.Generation, FromTag: v.Tag, Tag: ident.Digest{tag}}
	}
	commit := func(own wire.TagMove, also ...wire.TagMove) error {
		reply, err := w.Commit(t.Context(), cas.Caller{Key: ident.KeyHash{1}}, wire.TagRequest{
			Version: wire.ReleaseVersion, Volume: own.Volume, Lease: own.Lease, From: own.From, FromTag: own.FromTag, Tag: own.Tag, Also: also,
		})
		if err == nil && (reply.Generation != own.From+1 || reply.Head.Seq != w.Head().Seq) {
			t.Errorf("%+v", reply)
		}
		return err
	}
	generations := func() (out []uint64) {
		list, err := w.Instances(t.Context(), w.owner, "s")
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list.Volumes[:2] { // u and v
			out = append(out, v.Generation)
		}
		return out
	}

	stale := move(u, 2)
	stale.Lease = 9
	foreign := move(u, 2)
	foreign.Volume = ident.Digest{9}
	rule(t, commit(move(v, 1), stale), "lease_ended")
	rule(t, commit(move(v, 1), foreign), "volume_unknown")
	rule(t, commit(move(v, 1), move(v, 1)), "volume_unknown")
	rule(t, commit(move(v, 1), move(u, 0)), "volume_tag")
	rule(t, commit(move(v, 1), move(readOnly, 2)), "volume_read_only")
	w.store.Fail = func(journal.Batch) error { return errors.New("no space left") }
	rule(t, commit(move(v, 1), move(u, 2)), "store")
	w.store.Fail = nil
	if g := generations(); !slices.Equal(g, []uint64{0, 0}) {
		t.Fatalf("generations %v after refusals", g)
	}

	for range 2 { // the second time is a lost answer
		if err := commit(move(v, 1), move(u, 2)); err != nil {
			t.Fatal(err)
		}
	}
	w.restart()
	if g := generations(); !slices.Equal(g, []uint64{1, 1}) {
		t.Errorf("generations %v", g)
	}
	if err := commit(move(u, 2), move(v, 1)); err != nil {
		t.Errorf("in the other order: %v", err)
	}
	next := move(u, 3)
	next.From, next.FromTag = 1, ident.Digest{2}
	rule(t, commit(move(v, 1), next), "volume_tag_moved")
	if g := generations(); !slices.Equal(g, []uint64{1, 1}) {
		t.Errorf("generations %v", g)
	}
	if err := w.exit(1); err != nil {
		t.Fatal(err)
	}
	for _, v := range w.mustAsk(2, "s", "a").Volumes[:2] {
		if v.Generation != 1 || v.Access != owners.ReadWrite {
			t.Errorf("the next writer gets %+v", v)
		}
	}
}
