package manager_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// keeper is a backend that keeps volumes in memory.
type keeper struct {
	*backendtest.Fake
	mu     sync.Mutex
	stored map[ident.Digest]manager.VolumeStatus
}

func (k *keeper) Volumes(context.Context) ([]manager.VolumeStatus, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []manager.VolumeStatus
	for _, v := range k.stored {
		out = append(out, v)
	}
	return out, nil
}

func (k *keeper) RemoveVolume(_ context.Context, id ident.Digest, agree func(manager.VolumeStatus) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.stored[id]
	if !ok {
		return manager.UnknownVolume(id)
	}
	if err := agree(v); err != nil {
		return err
	}
	delete(k.stored, id)
	return nil
}

// TestVolumes: the operator removes what no app has, and nobody else anything.
func TestVolumes(t *testing.T) {
	k := &keeper{stored: map[ident.Digest]manager.VolumeStatus{}}
	s := serveOn(t, func(f *backendtest.Fake) manager.Backend { k.Fake = f; return k })
	ctx := t.Context()
	app, err := s.owner.Deploy(ctx, s.request())
	if err != nil {
		t.Fatal(err)
	}
	used, gone, unclear := ident.Sum([]byte("used")), ident.Sum([]byte("gone")), ident.Sum([]byte("unclear"))
	k.mu.Lock()
	for id, apps := range map[ident.Digest]map[string]string{
		used:    {app.ID: app.Name, "app-before": "before"},
		gone:    {"app-before": "before"},
		unclear: {},
	} {
		k.stored[id] = manager.VolumeStatus{ID: id, Generation: 3, Size: 5 << 20, Used: time.Now(), Apps: apps}
	}
	k.mu.Unlock()

	for who, c := range map[string]*client.Manager{"owner": s.owner} {
		if _, err := c.Volumes(ctx); problem.From(err) == nil || problem.From(err).Rule != "not_operator" {
			t.Errorf("list by %s: %v", who, err)
		}
		if _, err := c.RemoveVolume(ctx, gone, true); problem.From(err) == nil || problem.From(err).Rule != "not_operator" {
			t.Errorf("remove by %s: %v", who, err)
		}
	}
	if list, err := s.operator.Volumes(ctx); err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	refused := func(id ident.Digest, force bool, rule, mend string) {
		t.Helper()
		_, err := s.operator.RemoveVolume(ctx, id, force)
		p := problem.From(err)
		if p == nil || string(p.Rule) != rule || !strings.Contains(p.Mend, mend) {
			t.Errorf("%v; want %s with a mend that says %q", err, rule, mend)
			return
		}
		t.Log(p, p.Mend)
	}
	refused(used, false, "volume_in_use", "cupel rm --app "+app.Name)
	refused(used, true, "volume_in_use", "cupel rm --app "+app.Name)
	refused(unclear, false, "volume_unclear", "--force")
	refused(ident.Sum([]byte("none")), false, "volume_unknown", "cupel volume ls")
	if v, err := s.operator.RemoveVolume(ctx, gone, false); err != nil || v.Size != 5<<20 || len(v.Before) != 1 || v.Before[0] != "before" {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := s.operator.RemoveVolume(ctx, unclear, true); err != nil {
		t.Error(err)
	}

	if _, err := s.operator.RemoveApp(ctx, ident.AppRef(app.ID)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.operator.RemoveVolume(ctx, used, false)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("of an app that was removed: %v", err)
		}
	}
}
