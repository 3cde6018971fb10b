package daemon

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/problem"
)

// fullStore is a store on a full disk, as long as the reserve takes up room.
type fullStore struct {
	manager.Store
	reserve string
}

func (s fullStore) Apply(context.Context, manager.Change) ([]manager.Event, error) {
	if _, err := os.Stat(s.reserve); err == nil {
		return nil, problem.New(problem.Unavailable, "disk_full", "full")
	}
	return nil, nil
}

func TestReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reserve")
	r := &reserve{path: path}
	for range 2 { // the second finds it there
		if err := r.fill(); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() != reserveSize {
		t.Fatalf("the reserve: %v, %v", info, err)
	}
	s := roomyStore{Store: fullStore{reserve: path}, reserve: r}
	if _, err := s.Apply(t.Context(), manager.Change{Apps: []*manager.App{{}}}); err == nil {
		t.Error("an app was made on a full disk: that takes the reserve from removals")
	}
	if _, err := s.Apply(t.Context(), manager.Change{Apps: []*manager.App{{Removing: true}}}); err != nil {
		t.Errorf("remove on a full disk: %v", err)
	}
	if _, err := s.Apply(t.Context(), manager.Change{DeleteApps: []string{"app"}}); err != nil {
		t.Errorf("forget the app: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the reserve was not filled again: %v", err)
	}
}
