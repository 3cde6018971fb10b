package cas_test

import (
	"bytes"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
)

// TestResetVolume: a fresh volume has nothing of the one before, and nobody has
// the one before any more.
func TestResetVolume(t *testing.T) {
	w := newWorld(t)
	w.put(twoWriters("s"))
	reset := func(who cas.Caller, session ident.SessionName, volume string) error {
		got, err := w.ResetVolume(t.Context(), who, owners.ResetVolume{Version: owners.Version, Session: session, Volume: volume})
		if want := (owners.VolumeReset{Version: owners.Version, Session: "s", Volume: "v", Was: 1}); err == nil && got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		return err
	}
	rule(t, reset(w.owner, "s", "v"), "volume_unused")
	rule(t, reset(w.owner, "s", "x"), "volume_unknown")
	rule(t, reset(w.owner, "other", "v"), "session_unknown")
	rule(t, reset(cas.Caller{Key: ident.KeyHash{0x77}}, "s", "v"), "access_policy")
	rule(t, reset(cas.Caller{}, "s", "v"), "access_policy")
	_, err := w.ResetVolume(t.Context(), w.owner, owners.ResetVolume{Version: 9, Session: "s", Volume: "v"})
	rule(t, err, "api_version")

	a := w.mustAsk(1, "s", "a").Volumes[0]
	if err := w.tag(1, a, 0, ident.Digest{}, ident.Digest{1}); err != nil {
		t.Fatal(err)
	}
	rule(t, reset(w.owner, "s", "v"), "lease_held")
	if err := w.exit(1); err != nil {
		t.Fatal(err)
	}
	reader := w.mustAsk(2, "s", "r").Volumes[0]
	before := w.Head().Seq
	if err := reset(w.owner, "s", "v"); err != nil {
		t.Fatal(err)
	}

	entries, _, err := w.Log(t.Context(), before, 10)
	if err != nil || len(entries) != 1 || entries[0].Event != owners.EventVolumeReset || entries[0].Actor != w.owner.Key ||
		entries[0].Detail["volume"] != "v" || entries[0].Detail["generation"] != "1" {
		t.Errorf("%+v, %v", entries, err)
	}
	for range 2 { // the second time from what is stored
		if err := w.beat(2); err != nil {
			t.Errorf("the reader goes on: %v", err)
		}
		again, err := w.ask(2, "s", "r") // for a renewal: without the key, which is forgotten
		if err != nil || len(again.Volumes[0].Key) != 0 || again.Volumes[0].ID != reader.ID {
			t.Errorf("%+v, %v", again, err)
		}
		w.restart()
	}
	list, err := w.Instances(t.Context(), w.owner, "s")
	if err != nil || len(list.Volumes) != 1 || list.Volumes[0].Generation != 0 || list.Volumes[0].Statement != nil {
		t.Errorf("%+v, %v", list.Volumes, err)
	}
	for _, i := range list.Instances {
		if v := i.Volumes[0]; v.ID != reader.ID || v.ID == list.Volumes[0].ID || list.Volumes[0].ID.IsZero() {
			t.Errorf("instance %s has volume %s, and the newest is %s", i.ID.Short(), v.ID, list.Volumes[0].ID)
		}
	}

	b := w.mustAsk(3, "s", "b").Volumes[0]
	if b.ID == reader.ID || bytes.Equal(b.Key, reader.Key) || len(b.Key) != 32 || b.Generation != 0 || !b.Tag.IsZero() ||
		b.Access != owners.ReadWrite || b.Lease <= a.Lease {
		t.Errorf("after the reset: id %s, generation %d, lease %d", b.ID, b.Generation, b.Lease)
	}
	if err := w.tag(3, b, 0, ident.Digest{}, ident.Digest{2}); err != nil {
		t.Error(err)
	}
}

// TestResetLeavesAnswersOnTheirWay: an answer is written to its instance after all
// locks are gone; a reset meanwhile must not put zeros into it.
func TestResetLeavesAnswersOnTheirWay(t *testing.T) {
	w := newWorld(t)
	w.put(twoWriters("s"))
	answer := w.mustAsk(1, "s", "r")
	key := string(answer.Volumes[0].Key)
	if _, err := w.ResetVolume(t.Context(), w.owner, owners.ResetVolume{Version: owners.Version, Session: "s", Volume: "v"}); err != nil {
		t.Fatal(err)
	}
	if string(answer.Volumes[0].Key) != key {
		t.Error("the key in an answer was cleared")
	}
}
