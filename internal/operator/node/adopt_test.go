package node

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
)

// saved writes an instance's record as an earlier process left it.
func saved(t *testing.T, n *fakedNode, r *record) {
	t.Helper()
	if err := n.journal.save(r, true); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedRecordStopsNobody: what a power cut or a bad disk left of a record is put
// aside and told, with what to do; what is left of its instance goes, and the others
// are looked after.
func TestDamagedRecordStopsNobody(t *testing.T) {
	for name, c := range map[string]struct{ content, why string }{
		"empty":        {"", "it is empty"},
		"cut off":      {`{"version":1,"spec":{"ID":"i-b`, "it is no JSON of a record"},
		"zeroes":       {strings.Repeat("\x00", 512), "it is no JSON of a record"},
		"of another":   {`{"version":1,"spec":{"ID":"i-3"}}`, `it is of "i-3"`},
		"of no format": {`{"spec":{"ID":"i-bad"}}`, "it has version 0, not 1"},
	} {
		t.Run(name, func(t *testing.T) {
			n, r := testNode(t)
			saved(t, n, &record{Made: true, Spec: manager.InstanceSpec{ID: "i-good"}, Exit: &exit{Code: 3}})
			if err := os.WriteFile(n.journal.path("i-bad"), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			r.left = []ident.AttemptID{"i-bad", "i-good"}
			n.network.held["i-bad"] = true

			if err := n.Adopt(t.Context()); err != nil {
				t.Fatal(err)
			}
			list, err := n.List(t.Context())
			if err != nil || len(list) != 1 || list[0].ID != "i-good" || list[0].ExitCode != 3 {
				t.Errorf("%+v, %v", list, err)
			}
			if held, _ := n.network.Held(); !slices.Equal(r.deleted, []ident.AttemptID{"i-bad"}) || len(held) > 0 {
				t.Errorf("removed %q, addresses held by %q", r.deleted, held)
			}
			if b, err := os.ReadFile(n.dir("damaged", "i-bad.json")); err != nil || string(b) != c.content {
				t.Errorf("put aside: %q, %v", b, err)
			}
			told := n.tells()
			if len(told) != 2 || !strings.HasPrefix(told[0], "record_damaged i-bad: the record of instance i-bad can't be read ("+c.why) ||
				!strings.Contains(told[0], "put aside as node/damaged/i-bad.json") || told[1] != "leftover_removed : what was left of instance i-bad was removed" {
				t.Errorf("told:\n%s", strings.Join(told, "\n"))
			}
			// It is not told again, and the id is free.
			if err := n.Adopt(t.Context()); err != nil || len(n.tells()) > 0 {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// TestAdoptsWhatTheRuntimeLeavesOut: a runtime that was just started again may leave
// out what didn't answer it in time. Whose processes run is taken over.
func TestAdoptsWhatTheRuntimeLeavesOut(t *testing.T) {
	tree, procs := groupOf(t, "i-1")
	for name, c := range map[string]struct {
		procs string
		ended bool
	}{
		"processes run": {"999999999\n", false},
		"none is there": {"", true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(procs, []byte(c.procs), 0o600); err != nil {
				t.Fatal(err)
			}
			n, _ := testNode(t)
			n.cfg.Cgroups, n.cfg.Cgroup = tree, "/c"
			saved(t, n, &record{Made: true, Spec: manager.InstanceSpec{ID: "i-1"}})
			if err := n.Adopt(t.Context()); err != nil {
				t.Fatal(err)
			}
			i := n.find("i-1")
			if ended := i.rec.Exit != nil; ended != c.ended || i.watched == c.ended {
				t.Errorf("ended: %v, watched: %v; want ended: %v", ended, i.watched, c.ended)
			}
		})
	}
}

// TestNewerRecordIsNoDamage: after a step back to an older version its instances are
// not taken away.
func TestNewerRecordIsNoDamage(t *testing.T) {
	n, r := testNode(t)
	if err := os.WriteFile(n.journal.path("i-new"), []byte(`{"version":2,"spec":{"ID":"i-new"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Adopt(t.Context()); err == nil || problem.From(err).Rule != "state_newer" || len(r.deleted) > 0 {
		t.Errorf("%v; removed %q", err, r.deleted)
	}
}

// TestAdoptionIsTriedAgain: an instance that can't be taken over or removed is told,
// once, is no reason not to begin, and is looked at until it works.
func TestAdoptionIsTriedAgain(t *testing.T) {
	n, r := testNode(t)
	saved(t, n, &record{Spec: manager.InstanceSpec{ID: "i-half"}})
	saved(t, n, &record{Made: true, Spec: manager.InstanceSpec{ID: "i-runs"}})
	r.containers = []ContainerState{{ID: "i-runs", Running: true}}
	r.fails = map[ident.AttemptID]error{"i-half": problem.New(problem.Unavailable, "x", "the disk is read-only").Fix("mend it")}
	n.attester.fails = errors.New("no descriptors")
	if err := os.MkdirAll(n.dir("run", "i-runs"), 0o700); err != nil {
		t.Fatal(err)
	}

	if err := n.Adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer n.shutdown()
	told := n.tells()
	slices.Sort(told)
	want := []string{
		"trouble i-half: take over or remove an instance: x: the disk is read-only; mend it",
		"trouble i-runs: take over or remove an instance: listen for the instance's reports: no descriptors",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if list, _ := n.List(t.Context()); len(list) != 1 || list[0].State == manager.StateExited {
		t.Errorf("%+v", list)
	}
	if n.look(t.Context()); len(n.tells()) > 0 {
		t.Error("the same trouble is told twice")
	}
	if _, err := n.claim(manager.InstanceSpec{ID: "i-half"}); err == nil || problem.From(err).Rule != "instance_leftover" {
		t.Errorf("started over what is left: %v", err)
	}

	r.set(func() { r.fails = nil })
	n.attester.fails = nil
	n.look(t.Context())
	told = n.tells()
	if len(told) != 1 || told[0] != "trouble_over i-runs: take over or remove an instance: works again" {
		t.Errorf("told %q", told)
	}
	if n.find("i-half") != nil || len(r.deleted) < 3 {
		t.Errorf("what was half made stays; removals %q", r.deleted)
	}
}

// TestRuntimeThatHangsStopsNobody: where containerd answers nothing the node begins,
// says so once, and takes over when it answers again.
func TestRuntimeThatHangsStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, r := testNode(t)
		saved(t, n, &record{Made: true, Spec: manager.InstanceSpec{ID: "i-runs", Port: 80}})
		if err := os.MkdirAll(n.dir("run", "i-runs"), 0o700); err != nil {
			t.Fatal(err)
		}
		r.containers, r.hangs = []ContainerState{{ID: "i-runs", Running: true}}, true
		if err := n.Adopt(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, _ := n.List(t.Context())
		if len(list) != 1 || list[0].State == manager.StateExited || list[0].Health != manager.HealthUnhealthy {
			t.Errorf("while it hangs: %+v", list)
		}
		if err := n.resync(t.Context()); err == nil {
			t.Error("a look without an answer")
		}
		told := strings.Join(n.tells(), "\n")
		const want = "trouble : list containers: containerd_hangs: containerd did not list containers within 1 minute"
		if strings.Count(told, want) != 1 || !strings.Contains(told, "kill containerd and cupeld starts it again, apps go on") {
			t.Errorf("told:\n%s", told)
		}
		if list, _ := n.List(t.Context()); list[0].State == manager.StateExited {
			t.Error("silence was taken for an end")
		}

		r.set(func() { r.hangs = false })
		n.look(t.Context())
		n.shutdown()
		if told := strings.Join(n.tells(), "\n"); !strings.Contains(told, "trouble_over : list containers: works again") {
			t.Errorf("told:\n%s", told)
		}
		if i := n.find("i-runs"); i.pending || !i.watched {
			t.Error("it was not taken over")
		}
		time.Sleep(time.Minute) // what watched it ends
	})
}

// TestSweep: what nobody's record names is removed; what is removed or made while it
// is looked for is left alone.
func TestSweep(t *testing.T) {
	n, r := testNode(t)
	going := n.put(&record{Made: true, Spec: manager.InstanceSpec{ID: "i-going"}})
	n.put(&record{Made: true, Spec: manager.InstanceSpec{ID: "i-runs"}})
	if err := os.Mkdir(n.dir("logs", "i-logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.network.held["i-held"] = true
	r.left = []ident.AttemptID{"i-going", "i-runs", "i-orphan", "i-coming", "NOT-AN-ID"}
	r.during = func() {
		n.mu.Lock()
		delete(n.instances, going.rec.Spec.ID)
		n.mu.Unlock()
		n.put(&record{Spec: manager.InstanceSpec{ID: "i-coming"}})
	}
	n.look(t.Context())
	slices.Sort(r.deleted)
	if want := []ident.AttemptID{"i-held", "i-logs", "i-orphan"}; !slices.Equal(r.deleted, want) {
		t.Errorf("removed %q, want %q", r.deleted, want)
	}
	if left, _ := filepath.Glob(n.dir("logs", "*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
