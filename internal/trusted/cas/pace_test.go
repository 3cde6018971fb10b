package cas_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestManyReportMoreRarely: where more instances run than reports can be taken,
// each is told to report more rarely, and lapses by what it was told.
func TestManyReportMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.reports = 1
		w.restart()
		ctx, cancel := context.WithCancel(t.Context())
		run := func() (stop func()) {
			ctx, cancel := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() { defer close(done); _ = w.Run(ctx) }()
			return func() { cancel(); <-done }
		}
		stop := run()
		defer func() { stop(); cancel(); w.Close(); synctest.Wait() }()
		w.put(twoWriters("s"))

		told := func(key byte) int {
			t.Helper()
			r, err := w.KeepAlive(ctx, cas.Caller{Key: ident.KeyHash{key}}, wire.KeepAlive{Version: wire.ReleaseVersion})
			if err != nil {
				t.Fatal(err)
			}
			return r.KeepAliveSeconds
		}
		for key := range byte(40) {
			w.mustAsk(key+1, "s", "r")
		}
		if first := w.mustAsk(41, "s", "r").KeepAliveSeconds; first != 40 {
			t.Errorf("one more instance is told %d s, want 40: one report a second", first)
		}
		for key := range byte(41) {
			if n := told(key + 1); n != 41 {
				t.Fatalf("told %d s, want 41", n)
			}
		}

		// Nobody lapses who reports as told, over a restart of the CAS too.
		for range 2 {
			time.Sleep(41 * time.Second)
			for key := range byte(41) {
				told(key + 1)
			}
		}
		stop()
		w.restart()
		stop = run()
		time.Sleep(100 * time.Second)
		told(1)

		// Those that are silent do, and those that are left report more often again:
		// who lost the answer that says so doesn't lapse for it.
		time.Sleep(40 * time.Second)
		if err := w.beat(2); err == nil {
			t.Error("an instance that was silent for 140 s has rights")
		}
		if n := told(1); n != 10 {
			t.Errorf("told %d s, want 10", n)
		}
		time.Sleep(41 * time.Second)
		if n := told(1); n != 10 {
			t.Errorf("told %d s, want 10", n)
		}
		time.Sleep(40 * time.Second)
		rule(t, w.beat(1), "instance_lapsed")
	})
}
