package cas_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/cas"
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
