package cas_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestEndedGrantsAreForgotten: of the grants that ended, the last twenty are
// remembered, and those of an instance that still is; none that may be used is
// forgotten, and what was forgotten stays so after a start.
func TestEndedGrantsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = w.Run(ctx) }()
		w.put(readers("s"))

		end := func() owners.ClaimReply {
			g := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 1}}).Code)
			w.mustEnd(g)
			time.Sleep(time.Second)
			return g
		}
		live := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 1}}).Code)
		used := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 1}}).Code)
		w.mustAskUnder(used.Token, 1, "s", "a")
		w.mustEnd(used)
		var ended []owners.ClaimReply
		for range 26 {
			ended = append(ended, end())
		}
		time.Sleep(time.Hour)
		cancel()
		<-done

		check := func() {
			t.Helper()
			list, err := w.Grants(t.Context(), w.owner, "s")
			if err != nil {
				t.Fatal(err)
			}
			known := map[owners.GrantID]bool{}
			for _, g := range list.Grants {
				known[g.ID] = true
			}
			for i, g := range ended {
				if want := i >= 6; known[g.Grant] != want {
					t.Errorf("grant %d of %d that ended: known %v, want %v", i, len(ended), known[g.Grant], want)
				}
			}
			if !known[live.Grant] || !known[used.Grant] || len(known) != 22 {
				t.Errorf("%d known; live %v, used %v", len(known), known[live.Grant], known[used.Grant])
			}
		}
		check()
		w.restart()
		check()
		w.mustAskUnder(live.Token, 2, "s", "a")
		_, err := w.askUnder(ended[0].Token, 3, "s", "a")
		rule(t, err, "grant_other")
		if w.states("s")[1] == "" {
			t.Error("the instance of the ended grant is forgotten")
		}
		w.Close()
		synctest.Wait()
	})
}

// mustEnd gives a grant back.
func (w *world) mustEnd(g owners.ClaimReply) {
	w.t.Helper()
	if err := w.GiveBack(w.t.Context(), provider, owners.GiveBack{Version: wire.ReleaseVersion, Grant: g.Token}); err != nil {
		w.t.Fatal(err)
	}
}

// TestManyEndedGrants: what is remembered of ended grants is bounded for whoever
// has many sessions of them, and nobody else pays for it.
func TestManyEndedGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if err := w.quotas.Set("key-grants=10"); err != nil {
			t.Fatal(err)
		}
		w.restart()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = w.Run(ctx) }()

		hog, other := caller(7, "192.0.2.7"), caller(8, "192.0.2.8")
		end := func(who cas.Caller, name ident.SessionName, n int) {
			if err := w.upload(who, readers(string(name))); err != nil {
				t.Fatal(err)
			}
			for range n {
				w.mustEnd(w.claim(provider, w.submit(who, name, services{"a": {Instances: 1}}).Code))
			}
		}
		end(other, "other", 9)
		for i := range 6 {
			end(hog, ident.SessionName(fmt.Sprint("hog-", i)), 19)
		}
		alive := w.claim(provider, w.submit(hog, "hog-0", services{"a": {Instances: 1}}).Code)
		time.Sleep(time.Minute)

		count := func(who cas.Caller, name ident.SessionName) int {
			list, err := w.Grants(t.Context(), who, name)
			if err != nil {
				t.Fatal(err)
			}
			return len(list.Grants)
		}
		check := func() {
			t.Helper()
			if n := count(other, "other"); n != 9 {
				t.Errorf("%d of somebody else's are remembered", n)
			}
			all := 0
			for i := range 6 {
				n := count(hog, ident.SessionName(fmt.Sprint("hog-", i)))
				if all += n; n == 0 {
					t.Error("not even the last is remembered")
				}
			}
			if all > 1+6*2+10 {
				t.Errorf("%d are remembered", all)
			}
		}
		check()
		cancel()
		<-done
		w.restart()
		check()
		w.mustAskUnder(alive.Token, 1, "hog-0", "a")
		w.Close()
		synctest.Wait()
	})
}
