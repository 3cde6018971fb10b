package cas_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/wire"
)

// events counts the log's entries by event.
func (w *world) events() map[owners.Event]int {
	w.t.Helper()
	entries, _, err := w.Log(context.Background(), 0, 10_000)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[owners.Event]int{}
	for _, e := range entries {
		out[e.Event]++
	}
	return out
}

// TestReadsAreLogged: who read values that were given stands in the log, once for
// each key and hour, however often they did.
func TestReadsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.Close(); synctest.Wait() }()
		reader := cas.Caller{Key: ident.KeyHash{0xbb}}
		given := "secrets: [{name: token, kind: ascii, value: t0ken}]\n"
		w.put(readers("s", given, "access_policy: {read: [CREATOR, "+reader.Key.String()+"]}"))
		w.put(readers("open", given, "access_policy: {read: [ANY]}"))
		w.put(readers("nothing-given"))

		read := func(who cas.Caller, name ident.SessionName) {
			t.Helper()
			if _, err := w.GetSession(t.Context(), who, name, nil); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			read(w.owner, "s")
			read(reader, "s")
			read(w.owner, "nothing-given")
		}
		if n := w.events()[owners.EventSessionRead]; n != 2 {
			t.Errorf("%d entries, want one for each of the two readers", n)
		}
		time.Sleep(time.Hour)
		read(reader, "s")
		if n := w.events()[owners.EventSessionRead]; n != 3 {
			t.Errorf("%d entries after another hour, want 3", n)
		}

		for key := range byte(50) { // strangers, each with a fresh key
			read(cas.Caller{Key: ident.KeyHash{key, 1}}, "open")
		}
		if n := w.events()[owners.EventSessionRead]; n != 4 {
			t.Errorf("%d entries after 50 strangers, want one more", n)
		}

		// Who may not read leaves no trace: the log is no stranger's to fill.
		if _, err := w.GetSession(t.Context(), cas.Caller{Key: ident.KeyHash{0xdd}}, "s", nil); err == nil {
			t.Error("a stranger read it")
		}
		if n := w.events()[owners.EventSessionRead]; n != 4 {
			t.Errorf("%d entries after a refused read", n)
		}
	})
}

// TestRefusalsAreKept: readers see which releases were refused, equal ones
// counted together; the log gets a line an hour at most.
func TestRefusalsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = w.Run(ctx) }()
		w.put(readers("s"))
		token := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 2}}).Code).Token

		for key := range byte(200) {
			if _, err := w.askUnder(owners.GrantToken{}, key+1, "s", "a"); err == nil {
				t.Fatal("released without a grant")
			}
			time.Sleep(time.Second)
		}
		for i := range 150 { // other code each time
			req, who, exporter := w.request(token, 7, "s", "a")
			req.Evidence.Quote = []byte(fmt.Sprintf(`{"type":"sgx","measurement":"%064x"}`, i+1))
			if _, err := w.Release(ctx, who, exporter, req); err == nil {
				t.Fatal("other code was released to")
			}
		}

		list, err := w.Refusals(ctx, w.owner, "s")
		if err != nil || len(list.Refusals) != 100 {
			t.Fatalf("%d kept, %v; want the latest 100", len(list.Refusals), err)
		}
		if first := list.Refusals[0]; first.Service != "a" || first.Count != 1 || first.Actual == "" {
			t.Errorf("the latest: %+v", first)
		}
		_, err = w.Refusals(ctx, provider, "s")
		rule(t, err, "access_policy")

		time.Sleep(90 * time.Minute)
		if n := w.events()[owners.EventReleasesRefused]; n < 1 || n > 3 {
			t.Errorf("%d lines in some two hours", n)
		}
		cancel()
		<-done
		w.restart()
		if again, err := w.Refusals(t.Context(), w.owner, "s"); err != nil || len(again.Refusals) != 100 {
			t.Errorf("after a restart: %d, %v", len(again.Refusals), err)
		}
		w.Close()
		synctest.Wait()
	})
}

// TestEqualRefusalsAreOne: 50 times the same is one that counts 50.
func TestEqualRefusalsAreOne(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	for key := range byte(50) {
		_, _ = w.askUnder(owners.GrantToken{}, key+1, "s", "a")
	}
	list, err := w.Refusals(t.Context(), w.owner, "s")
	if err != nil || len(list.Refusals) != 1 || list.Refusals[0].Count != 50 || list.Refusals[0].Rule != "grant_missing" {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestStrangersPushOutNoRefusal: what a stranger has refused, without a grant, takes
// no place of what the owner should see.
func TestStrangersPushOutNoRefusal(t *testing.T) {
	w := newWorld(t)
	w.put(twoWriters("s"))
	req, who, exporter := w.request(w.wide("s"), 7, "s", "a")
	req.Evidence.Quote = []byte(`{"Type":"sgx"}`) // other code, under a grant of the owner's
	_, err := w.Release(t.Context(), who, exporter, req)
	if err == nil {
		t.Fatal("accepted")
	}
	seen := problem.From(err).Rule
	for i := range 300 {
		service := ident.ServiceName(fmt.Sprint("made-up-", i))
		_, err := w.Release(t.Context(), cas.Caller{Key: ident.KeyHash{1}}, [32]byte{}, &wire.ReleaseRequest{Version: wire.ReleaseVersion, Session: "s", Service: service})
		rule(t, err, "service_unknown")
	}
	out, err := w.Refusals(t.Context(), w.owner, "s")
	if err != nil || len(out.Refusals) != 100 {
		t.Fatalf("%d refusals, %v", len(out.Refusals), err)
	}
	if last := out.Refusals[99]; last.Rule != seen {
		t.Errorf("the oldest that is left is %s, not %s", last.Rule, seen)
	}
	if first := out.Refusals[0]; first.Service != "made-up-299" {
		t.Errorf("the newest is of %s", first.Service)
	}
}
