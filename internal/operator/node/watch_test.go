package node

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node/cgroup"
)

// listing is a Runtime whose List does something before it answers.
type listing struct {
	Runtime
	during     func()
	containers []ContainerState
}

func (r *listing) List(context.Context) ([]ContainerState, error) {
	answer := r.containers
	if r.during != nil {
		r.during()
	}
	return answer, nil
}

func (r *listing) Reap(context.Context, string) error { return nil }

func testNode(t *testing.T, r Runtime) *Node {
	return &Node{
		cfg: Config{
			State: t.TempDir(), Runtime: r, Cgroups: &cgroup.Tree{}, Now: time.Now, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		},
		journal:   journal{t.TempDir()},
		instances: map[string]*instance{},
		watchers:  map[chan manager.InstanceEvent]*backlog{},
	}
}

func (n *Node) put(r *record) *instance {
	i := newInstance(r)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.instances[r.Spec.ID] = i
	return i
}

// TestMissingInstanceIsLookedAtAgain: a list without an instance whose processes
// run is no proof of its end, for a while.
func TestMissingInstanceIsLookedAtAgain(t *testing.T) {
	groups := t.TempDir()
	procs := filepath.Join(groups, "c", "i-1", "cgroup.procs")
	for path, content := range map[string]string{filepath.Join(groups, "cgroup.controllers"): "memory", procs: "999999999\n"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := cgroup.Detect(groups)
	if err != nil {
		t.Fatal(err)
	}
	known := []ContainerState{{ID: "i-1", Running: true}}

	for name, c := range map[string]struct {
		lists [][]ContainerState // one every ten seconds
		procs string
		lost  bool
	}{
		"forgotten for a moment": {[][]ContainerState{nil, nil, known, nil, nil}, "999999999\n", false},
		"forgotten":              {[][]ContainerState{nil, nil, nil, nil}, "999999999\n", true},
		"gone":                   {[][]ContainerState{nil}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(procs, []byte(c.procs), 0o600); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				r := &listing{}
				n := testNode(t, r)
				n.cfg.Cgroups, n.cfg.Cgroup = tree, "/c"
				i := n.put(&record{Made: true, Spec: manager.InstanceSpec{ID: "i-1"}})
				for _, list := range c.lists {
					r.containers = list
					if err := n.resync(t.Context()); err != nil {
						t.Fatal(err)
					}
					time.Sleep(10 * time.Second)
				}
				if lost := i.rec.Exit != nil; lost != c.lost {
					t.Errorf("lost: %v, want %v", lost, c.lost)
				}
			})
		})
	}
}

// TestOlderListCondemnsNobody: an instance that was made after the runtime's list
// was asked for isn't in it, and is no less alive for that.
func TestOlderListCondemnsNobody(t *testing.T) {
	r := &listing{containers: []ContainerState{{ID: "i-old", Running: true}}}
	n := testNode(t, r)
	old := n.put(&record{Made: true, Spec: manager.InstanceSpec{ID: "i-old"}})
	lost := n.put(&record{Made: true, Spec: manager.InstanceSpec{ID: "i-lost"}})
	var young *instance
	r.during = func() { young = n.put(&record{Made: true, Spec: manager.InstanceSpec{ID: "i-young"}}) }

	if err := n.resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if old.rec.Exit != nil || lost.rec.Exit == nil || young.rec.Exit != nil {
		t.Errorf("ends: of the one that runs %+v, of the one that is gone %+v, of the one made meanwhile %+v",
			old.rec.Exit, lost.rec.Exit, young.rec.Exit)
	}
}
