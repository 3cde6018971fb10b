package cas_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

func TestOneWriter(t *testing.T) {
	w := newWorld(t)
	w.put(twoWriters("s"))
	zero, one, two := ident.Digest{}, ident.Digest{1}, ident.Digest{2}

	a := w.mustAsk(1, "s", "a").Volumes[0]
	if a.Access != owners.ReadWrite || a.Lease != 1 {
		t.Fatalf("first writer: %+v", a)
	}
	for key, service := range map[byte]ident.ServiceName{2: "a", 3: "b"} {
		_, err := w.ask(key, "s", service)
		rule(t, err, "lease_held")
		if p := problem.From(err); p.Kind != problem.Unavailable || !strings.Contains(p.Actual, (ident.InstanceID{1}).Short()) {
			t.Errorf("%v: want it to be waited for, and the holder named", err)
		}
	}
	reader := w.mustAsk(4, "s", "r").Volumes[0]
	if reader.Access != owners.ReadOnly || reader.Lease != 0 || reader.ID != a.ID {
		t.Errorf("reader: %+v", reader)
	}
	rule(t, w.tag(4, reader, 0, zero, one), "volume_read_only")
	stranger := a
	stranger.ID = ident.Digest{9}
	rule(t, w.tag(1, stranger, 0, zero, one), "volume_unknown")
	stale := a
	stale.Lease = 7
	rule(t, w.tag(1, stale, 0, zero, one), "lease_ended")
	rule(t, w.tag(1, a, 1, one, two), "volume_tag_moved")
	rule(t, w.tag(1, a, 0, one, two), "volume_tag_moved")
	rule(t, w.tag(1, a, 0, zero, zero), "volume_tag")
	for range 2 { // the second time is a lost answer
		if err := w.tag(1, a, 0, zero, one); err != nil {
			t.Fatal(err)
		}
	}
	rule(t, w.tag(1, a, 0, zero, two), "volume_tag_moved")
	if err := w.tag(1, a, 1, one, two); err != nil {
		t.Fatal(err)
	}
	if err := w.exit(1); err != nil {
		t.Fatal(err)
	}
	rule(t, w.tag(1, a, 2, two, one), "instance_exited")
	b := w.mustAsk(5, "s", "b").Volumes[0]
	if b.Access != owners.ReadWrite || b.Lease != 2 || b.Generation != 2 || b.Tag != two {
		t.Errorf("next writer: %+v", b)
	}
	rule(t, w.beat(99), "instance_unknown")
	if err := w.exit(1); err != nil {
		t.Errorf("exit reported again: %v", err)
	}
}

func TestUpdateTakesLease(t *testing.T) {
	w := newWorld(t)
	h := w.put(twoWriters("s"))
	a := w.mustAsk(1, "s", "a").Volumes[0]
	next := strings.Replace(twoWriters("s"), "name: s\n", "name: s\npredecessor: "+h.String()+"\n", 1)
	next = strings.Replace(next, "{name: a, image_name: writer", "{name: a, image_name: reader", 1)
	created, err := w.PutSession(t.Context(), w.owner, []byte(next))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(created.Warnings); !strings.Contains(got, "what instance "+(ident.InstanceID{1}).Short()+" of a wrote to volume v ") {
		t.Errorf("the update warns of %s", got)
	}
	if err := w.beat(1); err != nil {
		t.Errorf("the instance still satisfies the session: %v", err)
	}
	rule(t, w.tag(1, a, 0, ident.Digest{}, ident.Digest{1}), "lease_ended")
	if b := w.mustAsk(2, "s", "b").Volumes[0]; b.Access != owners.ReadWrite || b.Lease != 2 {
		t.Errorf("next writer: %+v", b)
	}
}

// TestLosingAWriterIsSaid: whoever ends the rights of an instance that writes a
// volume hears at once what it can't store any more; one that has stored it, or
// that only reads, is no reason to warn.
func TestLosingAWriterIsSaid(t *testing.T) {
	lost := "what instance " + (ident.InstanceID{1}).Short() + " of a wrote to volume v since it started can't be stored any more"
	for _, stored := range []bool{false, true} {
		w := newWorld(t)
		h := w.put(twoWriters("s"))
		g := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 1}, "r": {Instances: 1}}).Code)
		v := w.mustAskUnder(g.Token, 1, "s", "a").Volumes[0]
		w.mustAskUnder(g.Token, 2, "s", "r")
		want := lost
		if stored {
			want = ""
			if err := w.tag(1, v, 0, ident.Digest{}, ident.Digest{1}); err != nil {
				t.Fatal(err)
			}
		}
		ended, err := w.WithdrawGrant(t.Context(), w.owner, g.Grant)
		if err != nil || strings.Join(ended.Lost, "|") != want {
			t.Errorf("withdrawal says %q, %v", ended.Lost, err)
		}
		list, err := w.Grants(t.Context(), w.owner, "s")
		if err != nil || list.Grants[0].Lost != nil {
			t.Errorf("the list says it again: %v, %v", list.Grants[0].Lost, err)
		}

		w.mustAsk(3, "s", "a")
		next := strings.ReplaceAll(twoWriters("s"), "name: s\n", "name: s\npredecessor: "+h.String()+"\n")
		next = strings.ReplaceAll(next, "{name: a, ", "{name: other, ")
		created, err := w.PutSession(t.Context(), w.owner, []byte(next))
		want = strings.ReplaceAll(lost, (ident.InstanceID{1}).Short(), (ident.InstanceID{3}).Short())
		if err != nil || len(created.Warnings) != 1 || created.Warnings[0][0] != want {
			t.Errorf("update says %q, %v", created.Warnings, err)
		}
	}
}

// TestLapse: three missed reports end an instance's rights and its lease; the
// time in which the CAS was down or stood still does not count.
func TestLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); w.Close(); synctest.Wait() }()
		run := func() (stop func()) {
			ctx, cancel := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() { defer close(done); _ = w.Run(ctx) }()
			return func() { cancel(); <-done }
		}
		stop := run()
		w.put(twoWriters("s"))
		w.mustAsk(1, "s", "a")
		w.mustAsk(2, "s", "r")
		for range 12 {
			time.Sleep(keepAlive)
			if err := w.beat(1); err != nil {
				t.Fatal(err)
			}
		}
		rule(t, w.beat(2), "instance_lapsed")
		states := map[ident.InstanceID]owners.State{}
		list, err := w.Instances(ctx, w.owner, "s")
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range list.Instances {
			states[in.ID] = in.State
		}
		if states[ident.InstanceID{1}] != owners.Running || states[ident.InstanceID{2}] != owners.Lapsed {
			t.Errorf("states %v", states)
		}

		stop()
		w.Close()
		time.Sleep(time.Hour) // down
		w.open()
		stop = run()
		time.Sleep(2 * keepAlive)
		if err := w.beat(1); err != nil {
			t.Errorf("down-time counted: %v", err)
		}
		rule(t, w.beat(2), "instance_lapsed")
		time.Sleep(4 * keepAlive)
		rule(t, w.beat(1), "instance_lapsed")
		if v := w.mustAsk(3, "s", "b").Volumes[0]; v.Access != owners.ReadWrite || v.Lease != 2 {
			t.Errorf("the lapsed instance's lease: %+v", v)
		}
		stop()
	})
}

// TestLeaseSurvivesRestart: a restart of the CAS takes nothing from anybody.
func TestLeaseSurvivesRestart(t *testing.T) {
	w := newWorld(t)
	w.put(twoWriters("s"))
	a := w.mustAsk(1, "s", "a")
	w.restart()
	again := w.mustAsk(1, "s", "a") // the answer was lost with the CAS
	if x, y := a.Volumes[0], again.Volumes[0]; x.Lease != y.Lease || string(x.Key) != string(y.Key) || y.Access != owners.ReadWrite {
		t.Errorf("%+v, then %+v", x, y)
	}
	_, err := w.ask(2, "s", "b")
	rule(t, err, "lease_held")
	if err := w.tag(1, a.Volumes[0], 0, ident.Digest{}, ident.Digest{1}); err != nil {
		t.Error(err)
	}
}
