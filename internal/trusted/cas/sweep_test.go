package cas_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/cas/journal"
)

// TestLapsesWaitForNoReader: an instance that is silent lapses, however long some
// stranger's large session waits to be read.
func TestLapsesWaitForNoReader(t *testing.T) {
	w := newWorld(t)
	w.Close()
	c, err := cas.Open(t.Context(), cas.Config{
		Store: w.store, Sealer: w.key, Verifier: believer{}, KeepAlive: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.CAS = c
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	stranger := caller(9, "192.0.2.9")
	if err := w.upload(stranger, large("theirs", 900_000)); err != nil {
		t.Fatal(err)
	}
	w.put(readers("s"))
	w.Evict(time.Now().Add(time.Hour))
	w.mustAsk(1, "s", "a")

	leave := w.FillParser(ctx) // many large texts of theirs
	read := make(chan error, 1)
	go func() {
		_, err := w.GetSession(ctx, stranger, "theirs", nil)
		read <- err
	}()
	time.Sleep(50 * time.Millisecond) // it waits for its turn
	go func() { defer close(done); _ = w.Run(ctx) }()
	defer func() { leave(); cancel(); <-done; w.Close() }()

	time.Sleep(2 * time.Second)
	rule(t, w.beat(1), "instance_lapsed")
	select {
	case err := <-read:
		t.Errorf("read at once: %v", err)
	default:
	}
}

// TestLapsesWaitForNoStranger: however many grants of strangers end at once, and
// however slow the disk is, who is silent lapses when it is due, and is shown as
// silent meanwhile.
func TestLapsesWaitForNoStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		w.put(twoWriters("s"))
		for i := range 300 {
			who := caller(byte(9+i%3), "192.0.2.9")
			name := ident.SessionName(fmt.Sprint("theirs-", i))
			if err := w.upload(who, readers(string(name))); err != nil {
				t.Fatal(err)
			}
			for n := range 3 {
				until := time.Now().Add(time.Duration(1+n*25) * time.Second)
				_, err := w.MakeGrant(ctx, who, owners.NewGrant{Version: 1, Session: name, App: "x", Services: services{"a": {Instances: 1}}, Until: &until})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		w.mustAsk(1, "s", "a")
		var slow atomic.Bool
		slow.Store(true)
		w.store.Fail = func(journal.Batch) error {
			if slow.Load() {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		go func() { defer close(done); _ = w.Run(ctx) }()

		time.Sleep(keepAlive)
		_, err := w.ask(2, "s", "b")
		rule(t, err, "lease_held")
		if p := problem.From(err); !strings.Contains(p.Actual, "heard of 10s ago") && !strings.Contains(p.Actual, "heard of 11s ago") {
			t.Errorf("%v", p)
		}
		time.Sleep(3 * keepAlive)
		w.mustAsk(2, "s", "b")
		slow.Store(false)
		cancel()
		<-done
		w.Close()
		synctest.Wait()
	})
}

// TestReportBeatsAnOlderLook: whoever was found silent and reports before its turn
// to lapse comes keeps its rights.
func TestReportBeatsAnOlderLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(twoWriters("s"))
		w.mustAsk(1, "s", "a")
		silent := func() {
			for range 4 * keepAlive / time.Second {
				w.Beat()
				time.Sleep(time.Second)
			}
		}
		silent()
		if err := w.beat(1); err != nil {
			t.Fatal(err)
		}
		w.Lapse(t.Context(), ident.KeyHash{1})
		if err := w.beat(1); err != nil {
			t.Errorf("after it reported: %v", err)
		}
		silent()
		w.Lapse(t.Context(), ident.KeyHash{1})
		rule(t, w.beat(1), "instance_lapsed")
	})
}

// TestStandstill: time in which this process stood still counts against nobody's
// lease, and nobody is said to have been heard of then.
func TestStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Close()
		var slept atomic.Int64
		c, err := cas.Open(t.Context(), cas.Config{
			Store: w.store, Sealer: w.key, Verifier: believer{}, KeepAlive: keepAlive, Log: slog.New(slog.DiscardHandler),
			Now: func() time.Time { return time.Now().Add(time.Duration(slept.Load())) },
		})
		if err != nil {
			t.Fatal(err)
		}
		w.CAS = c
		defer w.watch()()
		w.put(twoWriters("s"))
		w.mustAsk(1, "s", "a")
		time.Sleep(keepAlive)

		slept.Store(int64(time.Hour))
		time.Sleep(2 * keepAlive)
		_, err = w.ask(2, "s", "b")
		rule(t, err, "lease_held")
		if !strings.Contains(err.Error(), "heard of 1h0m3") {
			t.Errorf("%v", err)
		}
		time.Sleep(2 * keepAlive)
		w.mustAsk(2, "s", "b")
	})
}
