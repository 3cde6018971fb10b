package cas_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/cas/journal"
)

// large is a session of about so many bytes.
func large(name string, size int) string {
	return "version: \"0.3\"\nname: " + name + "\nsecrets: [{name: a, kind: ascii, value: \"" + strings.Repeat("x", size) + "\"}]\n"
}

func small(name string, extra ...string) string {
	return "version: \"0.3\"\nname: " + name + "\n" + strings.Join(extra, "\n") + "\n"
}

func caller(key byte, address string) cas.Caller {
	return cas.Caller{Key: ident.KeyHash{key, 0xca}, Address: netip.MustParseAddr(address)}
}

func (w *world) upload(who cas.Caller, text string) error {
	_, err := w.PutSession(context.Background(), who, []byte(text))
	return err
}

// update is text with the session's current version as predecessor.
func (w *world) update(who cas.Caller, name ident.SessionName, text string) error {
	w.t.Helper()
	now, err := w.GetSession(context.Background(), who, name, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.upload(who, text+"\npredecessor: "+now.Hash.String()+"\n")
}

func (w *world) remove(who cas.Caller, name ident.SessionName) owners.Removed {
	w.t.Helper()
	out, err := w.RemoveSession(context.Background(), who, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// TestOneKeyCantFillTheCAS: 80 uploads of 947 kB by one key would meet its quota,
// of which it has an eighth here, while an owner with hundreds of sessions in
// several versions doesn't.
func TestOneKeyCantFillTheCAS(t *testing.T) {
	w := newWorldWith(t, "key-bytes=8M")
	taker, owner := caller(1, "192.0.2.1"), caller(2, "192.0.2.2")

	var refused error
	taken := 0
	for i := range 80 / 8 {
		if refused = w.upload(taker, large(fmt.Sprintf("t%d", i), 947_000)); refused != nil {
			break
		}
		taken++
	}
	rule(t, refused, "quota_key_bytes")
	if !strings.Contains(refused.Error(), "cupel session rm") || !strings.Contains(refused.Error(), "--cas-quota key-bytes=") {
		t.Errorf("no word on how to mend it: %v", refused)
	}

	for i := range 300 {
		if err := w.upload(owner, large(fmt.Sprintf("o%d", i), 3000)); err != nil {
			t.Fatal(err)
		}
		if i < 50 {
			if err := w.update(owner, ident.SessionName(fmt.Sprintf("o%d", i)), large(fmt.Sprintf("o%d", i), 3001)); err != nil {
				t.Fatal(err)
			}
		}
	}

	// Counted after a restart as before, and less after a removal.
	before := w.Used(taker.Key)
	w.restart()
	if d := cmp.Diff(before, w.Used(taker.Key)); d != "" {
		t.Errorf("after a restart: %s", d)
	}
	rule(t, w.upload(taker, large("one-more", 947_000)), "quota_key_bytes")
	w.remove(taker, "t0")
	if err := w.upload(taker, large("one-more", 940_000)); err != nil {
		t.Errorf("no room after a removal: %v", err)
	}
}

// TestQuotas: each scope of each measure, with the message that is shown.
func TestQuotas(t *testing.T) {
	const here, there = "192.0.2.1", "192.0.2.2"
	put := func(key byte, address, text string) func(*world) error {
		return func(w *world) error { return w.upload(caller(key, address), text) }
	}
	versions := func(key byte, address string, n int) func(*world) error {
		return func(w *world) (err error) {
			for i := range n {
				err = errors.Join(err, w.update(caller(key, address), "a", small("a", "access_policy: {read: [ANY], update: [ANY]}", fmt.Sprintf("volumes: [{name: v%d%d}]", key, i))))
			}
			return err
		}
	}
	open := small("a", "access_policy: {read: [ANY], update: [ANY]}")
	grant := func(key byte, address string) func(*world) error {
		return func(w *world) error {
			_, err := w.MakeGrant(context.Background(), caller(key, address), owners.NewGrant{
				Version: owners.Version, Session: "a", App: "app", Services: services{"a": {Instances: 1}},
			})
			return err
		}
	}
	granted := strings.Replace(readers("a"), "\nservices", "\naccess_policy: {read: [ANY], deploy: [ANY], update: [ANY]}\nservices", 1)

	for _, c := range []struct {
		quota string
		steps []func(*world) error // the last is refused
		rule  string
	}{
		{"key-sessions=1", []func(*world) error{put(1, here, small("a")), put(1, there, small("b"))}, "quota_key_sessions"},
		{"address-sessions=1", []func(*world) error{put(1, here, small("a")), put(2, there, small("b")), put(3, here, small("c"))}, "quota_address_sessions"},
		{"address-sessions=1", []func(*world) error{put(1, "2001:db8::1", small("a")), put(2, "2001:db8:0:1::1", small("b")), put(3, "2001:db8::ffff", small("c"))}, "quota_address_sessions"},
		{"total-sessions=2", []func(*world) error{put(1, here, small("a")), put(2, there, small("b")), put(3, "192.0.2.3", small("c"))}, "quota_total_sessions"},
		{"key-versions=3", []func(*world) error{put(1, here, open), versions(1, here, 2), versions(1, there, 1)}, "quota_key_versions"},
		{"address-versions=3", []func(*world) error{put(1, here, open), versions(2, here, 2), versions(3, there, 1), versions(2, here, 1)}, "quota_address_versions"},
		{"total-versions=3", []func(*world) error{put(1, here, open), versions(2, there, 2), versions(2, here, 1)}, "quota_total_versions"},
		{"key-bytes=4K", []func(*world) error{put(1, here, large("a", 3000)), put(1, here, large("b", 3000))}, "quota_key_bytes"},
		{"address-bytes=4K", []func(*world) error{put(1, here, large("a", 3000)), put(2, here, large("b", 3000))}, "quota_address_bytes"},
		{"total-bytes=4K", []func(*world) error{put(1, here, large("a", 3000)), put(2, there, large("b", 3000))}, "quota_total_bytes"},
		// What the CAS would generate counts, though the text is short.
		{"key-bytes=100K", []func(*world) error{put(1, here, small("a", "secrets: [{name: a, kind: binary, size: 65536}]")), put(1, here, small("b", "secrets: [{name: a, kind: binary, size: 65536}]"))}, "quota_key_bytes"},
		{"key-grants=2", []func(*world) error{put(1, here, granted), grant(2, here), grant(2, here), grant(2, there)}, "quota_key_grants"},
		{"address-grants=2", []func(*world) error{put(1, here, granted), grant(2, here), grant(3, here), grant(4, there), grant(3, here)}, "quota_address_grants"},
		{"total-grants=2", []func(*world) error{put(1, here, granted), grant(2, here), grant(3, there), grant(3, there)}, "quota_total_grants"},
	} {
		t.Run(c.quota, func(t *testing.T) {
			// A key's own part would let small amounts pass beside what others have.
			w := newWorldWith(t, "key-versions=16,key-grants=16,"+c.quota)
			for i, step := range c.steps {
				err := step(w)
				if i < len(c.steps)-1 && err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if i == len(c.steps)-1 {
					rule(t, err, c.rule)
				}
			}
			before := w.UsedInAll()
			w.restart()
			if d := cmp.Diff(before, w.UsedInAll()); d != "" {
				t.Errorf("after a restart: %s", d)
			}
			rule(t, c.steps[len(c.steps)-1](w), c.rule)
		})
	}
}

// TestFullCASGoesOn: with every total used up, sessions that exist are updated and
// deployed, and what runs goes on.
func TestFullCASGoesOn(t *testing.T) {
	w := newWorldWith(t, "total-bytes=200K,address-bytes=150K")
	w.owner.Address = netip.MustParseAddr("192.0.2.1")
	w.put(twoWriters("s"))
	reply := w.mustAsk(1, "s", "a")

	for i, address := range []string{"192.0.2.1", "192.0.2.3"} {
		for n := 0; w.upload(caller(byte(3+i), address), large(fmt.Sprintf("filler-%d-%d", i, n), 3000)) == nil; n++ {
		}
	}
	rule(t, w.upload(caller(5, "192.0.2.5"), large("new", 5000)), "quota_total_bytes")
	rule(t, w.upload(w.owner, large("new", 5000)), "quota_address_bytes")
	if err := w.update(w.owner, "s", twoWriters("s")+"access_policy: {read: [ANY]}"); err != nil {
		t.Errorf("update: %v", err)
	}
	w.submit(w.owner, "s", services{"r": {Instances: 1}})
	if err := w.beat(1); err != nil {
		t.Errorf("keep-alive: %v", err)
	}
	if err := w.tag(1, reply.Volumes[0], 0, ident.Digest{}, ident.Digest{1}); err != nil {
		t.Errorf("tag: %v", err)
	}
	if err := w.exit(1); err != nil {
		t.Errorf("exit: %v", err)
	}
	w.mustAsk(2, "s", "b")
}

// TestRefusedUploadsAreNotCounted: neither what the store fails to keep, nor what
// comes at once.
func TestRefusedUploadsAreNotCounted(t *testing.T) {
	w := newWorldWith(t, "key-sessions=20")
	who := caller(1, "192.0.2.1")

	w.store.Lock()
	w.store.Fail = func(journal.Batch) error { return errors.New("disk full") }
	w.store.Unlock()
	for i := range 40 {
		if w.upload(who, small(fmt.Sprintf("f%d", i))) == nil {
			t.Fatal("kept by a store that failed")
		}
	}
	w.store.Lock()
	w.store.Fail = nil
	w.store.Unlock()
	if used := w.Used(who.Key); len(used) != 0 {
		t.Errorf("counted: %v", used)
	}
	if states, _ := w.InMemory(); states != 0 {
		t.Errorf("%d names that were refused stay in memory", states)
	}

	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() { _ = w.upload(who, small(fmt.Sprintf("s%d", i))) })
	}
	all.Wait()
	if n := w.Used(who.Key)["sessions"]; n != 20 {
		t.Errorf("%d sessions, want 20", n)
	}
}

// TestOldStateIsCounted: rows of a CAS without quotas are counted to their
// creators, and completed once.
func TestOldStateIsCounted(t *testing.T) {
	w := newWorld(t)
	w.put(small("a"))
	if err := w.update(w.owner, "a", small("a", "volumes: [{name: v}]")); err != nil {
		t.Fatal(err)
	}
	if err := w.AsBefore(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	w.restart()
	used := w.Used(w.owner.Key)
	if used["sessions"] != 1 || used["versions"] != 2 || used["bytes"] < 50 {
		t.Errorf("counted: %v", used)
	}
	w.restart()
	if d := cmp.Diff(used, w.Used(w.owner.Key)); d != "" {
		t.Errorf("counted again: %s", d)
	}
	if n := w.events()[owners.EventUsageCounted]; n != 1 {
		t.Errorf("completed %d times", n)
	}
}

// TestNobodyWaitsForStrangers: who has no right to update doesn't wait for the
// lock for writing, and so lets nobody wait.
func TestNobodyWaitsForStrangers(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	made := w.submit(w.owner, "s", services{"a": {Instances: 1}})
	stranger := caller(9, "192.0.2.9")

	unlock, err := w.Reading(t.Context(), "s") // a release that takes its time
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	rule(t, w.upload(stranger, readers("s", "access_policy: {read: [ANY]}")), "access_policy")
	_, err = w.RemoveSession(t.Context(), stranger, "s")
	rule(t, err, "access_policy")
	_, err = w.WithdrawGrant(t.Context(), stranger, made.Grant.ID)
	rule(t, err, "access_policy")
	_, err = w.Rotate(t.Context(), stranger, owners.Rotate{Version: owners.Version, Session: "s", Volumes: []string{"v"}})
	rule(t, err, "access_policy")
}

// TestSessionsThatExpand: a text that is much larger once it is filled in.
func TestSessionsThatExpand(t *testing.T) {
	w := newWorld(t)
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  - {name: s%d, image_name: i, mrenclaves: [%s], command: a}\n", i, code)
	}
	files := "images: [{name: i, injection_files: [{path: /f, content: \"" + strings.Repeat("$$SCONE::s$$", 2000) + "\"}]}]\nsecrets: [{name: s, kind: ascii}]\n"
	rule(t, w.upload(w.owner, small("refs", b.String()+files)), "session_expands")
	files = "images: [{name: i, injection_files: [{path: /f, content: \"" + strings.Repeat("x", 500_000) + "\"}]}]\n"
	rule(t, w.upload(w.owner, small("large", b.String()+files)), "session_expands")
}

// TestIdleSessionsLeaveMemory: and come back with the values that they had.
func TestIdleSessionsLeaveMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = w.Run(ctx) }()
		defer func() { cancel(); <-done; w.Close(); synctest.Wait() }()

		for i := range 20 {
			w.put(small(fmt.Sprintf("idle%d", i)))
		}
		w.put(twoWriters("s") + "secrets: [{name: made, kind: ascii, export_public: true}]\n")
		value := func() string {
			v, err := w.Values(ctx, cas.Caller{}, cas.ValueRef{Session: "s", Secret: "made"})
			if err != nil {
				t.Fatal(err)
			}
			return v.Values["made"].Value
		}
		was := value()
		reply := w.mustAsk(1, "s", "a")
		for range 70 { // the instance reports, nobody asks for the session
			time.Sleep(keepAlive)
			if err := w.beat(1); err != nil {
				t.Fatal(err)
			}
		}
		if states, plans := w.InMemory(); states != 1 || plans != 0 || w.Loaded() != 0 {
			t.Errorf("%d sessions and %d plans are in memory, %d bytes; want the one of an instance, without its plan", states, plans, w.Loaded())
		}

		if err := w.tag(1, reply.Volumes[0], 0, ident.Digest{}, ident.Digest{1}); err != nil {
			t.Errorf("tag: %v", err)
		}
		if value() != was {
			t.Error("the generated value is another")
		}
		_, err := w.ask(2, "s", "b")
		rule(t, err, "lease_held")
	})
}

// TestMemoryIsTight: sessions that are asked for by anybody don't pile up.
func TestMemoryIsTight(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	defer func() { cancel(); <-done }()

	const weight = 8 * 900_000
	for i := range 2 * cas.MaxLoaded / weight {
		if err := w.upload(caller(byte(i), "192.0.2.1"), large(fmt.Sprintf("s%d", i), 900_000)); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		if w.Loaded() <= cas.MaxLoaded {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := w.Loaded(); n > cas.MaxLoaded {
		t.Errorf("%d bytes stay", n)
	}
	if _, err := w.GetSession(ctx, caller(0, "192.0.2.1"), "s0", nil); err != nil {
		t.Errorf("one that left: %v", err)
	}
}
