package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestVolumesKept: who used a volume is known, and it goes with all its copies, but
// only if that is agreed to.
func TestVolumesKept(t *testing.T) {
	r := &replica{stored: map[wire.Snapshot]string{}}
	s := store(t, r)
	n := &Node{volumes: s}
	ctx, id := t.Context(), ident.Sum([]byte("data"))
	if err := os.MkdirAll(filepath.Join(s.dir, id.String()), 0o700); err != nil {
		t.Fatal(err)
	}
	for g := uint64(1); g <= 2; g++ {
		v := named(id, g, "text")
		r.stored[v] = "text"
		if err := os.WriteFile(s.path(v), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := named(ident.Sum([]byte("other")), 1, "text")
	r.stored[other] = "text"
	s.use(ctx, id, volumeUser{"app-1", "one"})
	s.use(ctx, id, volumeUser{"app-2", "two"})
	s.use(ctx, id, volumeUser{"app-1", "one"})

	list, err := n.Volumes(ctx)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	if v := list[0]; v.ID != id || v.Generation != 2 || v.Size != 8 || v.Used.IsZero() || len(v.Apps) != 2 || v.Apps["app-2"] != "two" {
		t.Errorf("%+v", v)
	}
	no := errors.New("no")
	if err := n.RemoveVolume(ctx, id, func(manager.VolumeStatus) error { return no }); !errors.Is(err, no) {
		t.Errorf("not agreed to: %v", err)
	}
	if snapshots, err := s.list(id); err != nil || len(snapshots) != 2 {
		t.Errorf("%v are left, %v", snapshots, err)
	}
	agree := func(manager.VolumeStatus) error { return nil }
	if err := n.RemoveVolume(ctx, id, agree); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, id.String())); !errors.Is(err, os.ErrNotExist) || len(r.stored) != 1 {
		t.Errorf("left: %v, %v", err, r.stored)
	}
	if err := n.RemoveVolume(ctx, id, agree); problem.From(err) == nil || problem.From(err).Rule != "volume_unknown" {
		t.Errorf("removed twice: %v", err)
	}
}

// TestVolumeUsersAreBounded: an app that comes and goes leaves no more than so many
// notes.
func TestVolumeUsersAreBounded(t *testing.T) {
	s := store(t, nil)
	id := ident.Sum([]byte("data"))
	if err := os.Mkdir(filepath.Join(s.dir, id.String()), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range maxUsers + 20 {
		s.use(t.Context(), id, volumeUser{fmt.Sprintf("app-%d", i), "again"})
	}
	v, err := s.kept(id)
	if err != nil || len(v.Apps) != maxUsers || v.Apps[fmt.Sprintf("app-%d", maxUsers+19)] == "" {
		t.Errorf("%d users are noted, %v", len(v.Apps), err)
	}
}
