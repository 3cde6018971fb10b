package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node/cgroup"
)

// groupOf is a tree of control groups in which /c/ID has the processes that are
// written to procs.
func groupOf(t *testing.T, id string) (tree *cgroup.Tree, procs string) {
	t.Helper()
	groups := t.TempDir()
	procs = filepath.Join(groups, "c", id, "cgroup.procs")
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
	return tree, procs
}

// TestMissingInstanceIsLookedAtAgain: a list without an instance whose processes
// run is no proof of its end, for a while.
func TestMissingInstanceIsLookedAtAgain(t *testing.T) {
	tree, procs := groupOf(t, "i-1")
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
				n, r := testNode(t)
				n.cfg.Cgroups, n.cfg.Cgroup = tree, "/c"
				i := n.put(&record{Made: true, Spec: manager.InstanceSpec{ID: "i-1"}})
				for _, list := range c.lists {
					r.containers = list
					if err := n.resync(t.Context()); err != nil {
						t.Fatal(err)
					}
					time.Sleep(10 * time.Second)
				}
				synctest.Wait()
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
	n, r := testNode(t)
	r.containers = []ContainerState{{ID: "i-old", Running: true}}
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

// TestExitedInstanceGivesItsAddressBack: there are few, and its logs need none.
func TestExitedInstanceGivesItsAddressBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, r := testNode(t)
		n.network.held = map[ident.AttemptID]bool{"i-1": true, "i-2": true}
		i := n.put(&record{Made: true, IP: netip.MustParseAddr("10.88.1.2"), Spec: manager.InstanceSpec{ID: "i-1"}})
		n.put(&record{Made: true, Spec: manager.InstanceSpec{ID: "i-2"}})
		r.containers = []ContainerState{{ID: "i-1", ExitCode: 1, ExitedAt: time.Now()}, {ID: "i-2", Running: true}}
		if err := n.resync(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if held, _ := n.network.Held(); !slices.Equal(held, []ident.AttemptID{"i-2"}) {
			t.Errorf("addresses are held by %q, want by the one that runs alone", held)
		}
		if s := i.status(); s.State != manager.StateExited || s.IP.IsValid() {
			t.Errorf("%+v: another may have its address by now", s)
		}

		// One whose address could not be given back is tried again.
		n.network.held["i-1"] = true
		if err := os.WriteFile(n.dir("netns", "i-1"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		n.letGoAgain(t.Context())
		if held, _ := n.network.Held(); !slices.Equal(held, []ident.AttemptID{"i-2"}) {
			t.Errorf("after another look: %q", held)
		}
	})
}
