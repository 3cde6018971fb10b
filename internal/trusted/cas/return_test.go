package cas_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestReturnGivesBackNoMoreThanTheSession: what an update took from an instance
// doesn't come back when it lapses and is attested anew, before or after.
func TestReturnGivesBackNoMoreThanTheSession(t *testing.T) {
	for _, lapsedFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("lapsed first: %v", lapsedFirst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.watch()()
				h := w.put(twoWriters("s"))
				v := w.mustAsk(1, "s", "a").Volumes[0]

				next := strings.Replace(twoWriters("s"), "name: s\n", "name: s\npredecessor: "+h.String()+"\n", 1)
				next = strings.Replace(next, "{name: a, image_name: writer", "{name: a, image_name: reader", 1)
				if lapsedFirst {
					time.Sleep(5 * keepAlive)
				}
				w.put(next)
				time.Sleep(5 * keepAlive)

				_, err := w.ask(1, "s", "a")
				rule(t, err, "lease_ended")
				rule(t, w.tag(1, v, 0, ident.Digest{}, ident.Digest{1}), "instance_lapsed")
				w.mustAsk(2, "s", "a") // what failed left no place taken
			})
		})
	}
}

// TestForgottenIsNotNew: an instance that the CAS has forgotten runs what it was
// released long ago, and gets no row that says that it runs the newest.
func TestForgottenIsNotNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.watch()()
		w.put(twoWriters("s"))
		token := w.wide("s")
		returning := func(key byte) error {
			req, who, exporter := w.request(token, key, "s", "r")
			req.Returning = true
			_, err := w.Release(t.Context(), who, exporter, req)
			return err
		}

		old := w.mustAsk(1, "s", "r").Volumes[0]
		if err := returning(1); err != nil {
			t.Errorf("known: %v", err)
		}
		time.Sleep(5 * keepAlive)
		if err := returning(1); err != nil {
			t.Errorf("lapsed: %v", err)
		}
		// The operator says that it is gone, and it isn't.
		if err := w.Gone(t.Context(), provider, owners.InstanceGone{Version: wire.ReleaseVersion, Grant: token, Instance: ident.InstanceID{1}}); err != nil {
			t.Fatal(err)
		}

		writer := w.mustAsk(2, "s", "a").Volumes[0]
		if err := w.tag(2, writer, 0, ident.Digest{}, ident.Digest{1}); err != nil {
			t.Fatal(err)
		}
		for i := range 150 {
			w.mustAsk(byte(50+i), "s", "r")
			if err := w.exit(byte(50 + i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(keepAlive)
		rule(t, w.beat(1), "instance_unknown")
		rule(t, returning(1), "instance_unknown")
		if state, known := w.states("s")[1]; known {
			t.Errorf("it has a row again: %s, generation %d was its own", state, old.Generation)
		}
	})
}

// TestManyThatLapsedComeBack: an instance that was out of reach, with many others, is
// no history: it may come back.
func TestManyThatLapsedComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.watch()()
		w.put(twoWriters("s"))
		for i := range 200 {
			w.mustAsk(byte(1+i), "s", "r")
		}
		time.Sleep(10 * keepAlive)
		w.restart() // as Run goes on with another CAS, nothing is pruned any more
		for i := range 200 {
			req, who, exporter := w.request(w.wide("s"), byte(1+i), "s", "r")
			req.Returning = true
			if _, err := w.Release(t.Context(), who, exporter, req); err != nil {
				t.Fatalf("instance %d: %v", i, err)
			}
		}
	})
}

// whilePruning is a store that makes a call while the rows of ended instances are
// being dropped.
type whilePruning struct {
	journal.Store
	call func()
}

func (s *whilePruning) Commit(ctx context.Context, b journal.Batch) error {
	for _, e := range b.Entries {
		if e.Event == owners.EventInstancesPruned && s.call != nil {
			call := s.call
			s.call = nil
			call()
		}
	}
	return s.Store.Commit(ctx, b)
}

// TestReturnWhilePruned: an instance that comes back while its row is dropped is
// one that its owner sees, and whose place becomes free.
func TestReturnWhilePruned(t *testing.T) {
	w := newWorld(t)
	w.Close()
	store := &whilePruning{Store: w.store}
	c, err := cas.Open(t.Context(), cas.Config{
		Store: store, Sealer: w.key, Verifier: believer{}, KeepAlive: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.CAS = c
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	defer func() { cancel(); <-done; w.Close() }()

	w.put(readers("s"))
	token := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 2}}).Code).Token
	w.mustAskUnder(token, 1, "s", "a")
	for w.beat(1) == nil {
		time.Sleep(400 * time.Millisecond)
	}
	back := make(chan error, 1)
	store.call = func() {
		go func() { _, err := w.askUnder(token, 1, "s", "a"); back <- err }()
		time.Sleep(30 * time.Millisecond)
	}
	for i := 2; i < 140; i++ { // younger ones, which are kept
		w.mustAskUnder(token, byte(i), "s", "a")
		if err := w.exit(byte(i)); err != nil {
			t.Fatal(err)
		}
	}

	if err := <-back; err != nil {
		t.Fatal(err)
	}
	if err := w.beat(1); err != nil {
		t.Errorf("it came back, and is not known: %v", err)
	}
	if err := w.exit(1); err != nil {
		t.Error(err)
	}
	w.mustAskUnder(token, 200, "s", "a")
	w.mustAskUnder(token, 201, "s", "a")
}
