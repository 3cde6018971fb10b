package cas_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/wire"
)

// provider is an operator's key.
var provider = cas.Caller{Key: ident.KeyHash{0x99}}

type services = map[ident.ServiceName]owners.GrantedService

// submit makes a grant.
func (w *world) submit(who cas.Caller, name ident.SessionName, s services) owners.GrantMade {
	w.t.Helper()
	made, err := w.MakeGrant(context.Background(), who, owners.NewGrant{Version: owners.Version, Session: name, App: "app", Services: s})
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

// claim gets a code's token.
func (w *world) claim(who cas.Caller, code string) owners.ClaimReply {
	w.t.Helper()
	reply, err := w.Claim(context.Background(), who, owners.Claim{Version: wire.ReleaseVersion, Code: code})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

func (w *world) mustAskUnder(token owners.GrantToken, key byte, name ident.SessionName, service ident.ServiceName) *wire.ReleaseReply {
	w.t.Helper()
	r, err := w.askUnder(token, key, name, service)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// states are those of a session's instances.
func (w *world) states(name ident.SessionName) map[byte]owners.State {
	w.t.Helper()
	list, err := w.Instances(context.Background(), w.owner, name)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[byte]owners.State{}
	for _, in := range list.Instances {
		out[in.ID[0]] = in.State
	}
	return out
}

// readers is a session whose service a may run side by side, and whose job j
// writes a volume.
func readers(name string, extra ...string) string {
	return strings.NewReplacer("NAME", name, "CODE", code.String()).Replace(`version: "0.3"
name: NAME
services:
  - {name: a, mrenclaves: [CODE], command: a}
  - {name: j, image_name: job, mrenclaves: [CODE], command: j}
volumes: [{name: v}]
images:
  - {name: job, volumes: [{name: v, path: /v, update_policy: rollback_protected}]}
` + strings.Join(extra, "\n"))
}

func TestGrantIsAskedFor(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	w.put(readers("other"))
	mine := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 2}}).Code)
	others := w.claim(provider, w.submit(w.owner, "other", services{"a": {Instances: 2}}).Code)

	forged := owners.NewGrantToken(mine.Grant, [32]byte{1})
	for name, c := range map[string]struct {
		token   owners.GrantToken
		service ident.ServiceName
		rule    string
	}{
		"none":              {owners.GrantToken{}, "a", "grant_missing"},
		"another session's": {others.Token, "a", "grant_other"},
		"another service's": {mine.Token, "j", "grant_other"},
		"a forged one":      {forged, "a", "grant_other"},
	} {
		_, err := w.askUnder(c.token, 1, "s", c.service)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		rule(t, err, c.rule)
		if problem.KindOf(err) != problem.Denied {
			t.Errorf("%s: kind %s", name, problem.KindOf(err))
		}
	}

	r := w.mustAskUnder(mine.Token, 1, "s", "a")
	if r.Job {
		t.Error("a service is taken for a job")
	}
}

// TestGrantOfAnotherCAS: a token is one CAS's word.
func TestGrantOfAnotherCAS(t *testing.T) {
	w, elsewhere := newWorld(t), newWorld(t)
	w.put(readers("s"))
	elsewhere.put(readers("s"))
	made := elsewhere.submit(elsewhere.owner, "s", services{"a": {Instances: 1}})

	_, err := w.Claim(t.Context(), provider, owners.Claim{Version: wire.ReleaseVersion, Code: made.Code})
	rule(t, err, "grant_other")
	_, err = w.askUnder(elsewhere.claim(provider, made.Code).Token, 1, "s", "a")
	rule(t, err, "grant_other")
}

func TestSessionThatAsksForNoGrant(t *testing.T) {
	w := newWorld(t)
	created, err := w.PutSession(t.Context(), w.owner, []byte(readers("s", "access_policy: {deploy: [ANY]}")))
	if err != nil {
		t.Fatal(err)
	}
	if len(created.Warnings) == 0 || !strings.Contains(created.Warnings[0][0], "anybody") {
		t.Errorf("warnings %v: want one that says what ANY means", created.Warnings)
	}
	w.mustAskUnder(owners.GrantToken{}, 1, "s", "a")
}

// TestOlderLaunchers: a launcher of the protocol before has no grant to present,
// and gets answers in its own version where none is asked for.
func TestOlderLaunchers(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	w.put(readers("free", "access_policy: {deploy: [ANY]}"))

	ask := func(name ident.SessionName) (*wire.ReleaseReply, error) {
		req, who, exporter := w.request(owners.GrantToken{}, 1, name, "a")
		req.Version = wire.Previous
		return w.Release(t.Context(), who, exporter, req)
	}
	_, err := ask("s")
	rule(t, err, "grant_missing")
	r, err := ask("free")
	if err != nil || r.Version != wire.Previous {
		t.Fatalf("%+v, %v", r, err)
	}
	beat, err := w.KeepAlive(t.Context(), cas.Caller{Key: ident.KeyHash{1}}, wire.KeepAlive{Version: wire.Previous})
	if err != nil || beat.Version != wire.Previous {
		t.Errorf("%+v, %v", beat, err)
	}
}

func TestWhoMayGrant(t *testing.T) {
	w := newWorld(t)
	stranger := cas.Caller{Key: ident.KeyHash{0x55}}
	w.put(readers("s"))
	w.put(readers("theirs", "access_policy: {deploy: ["+stranger.Key.String()+"]}"))

	for name, c := range map[string]struct {
		who     cas.Caller
		session ident.SessionName
	}{"a stranger": {stranger, "s"}, "nobody": {cas.Caller{}, "s"}, "the creator, who left himself out": {w.owner, "theirs"}} {
		_, err := w.MakeGrant(t.Context(), c.who, owners.NewGrant{Version: owners.Version, Session: c.session, App: "app", Services: services{"a": {Instances: 1}}})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		rule(t, err, "access_policy")
	}
	made := w.submit(stranger, "theirs", services{"a": {Instances: 1}})
	if made.Grant.Maker != stranger.Key {
		t.Errorf("maker %s", made.Grant.Maker)
	}

	// Who may neither deploy nor update can neither list nor change it.
	_, err := w.Grants(t.Context(), stranger, "s")
	rule(t, err, "access_policy")
	mine := w.submit(w.owner, "s", services{"a": {Instances: 1}}).Grant.ID
	_, err = w.WithdrawGrant(t.Context(), stranger, mine)
	rule(t, err, "access_policy")
	_, err = w.ChangeGrant(t.Context(), stranger, mine, owners.GrantChange{Version: owners.Version, Services: services{"a": {Instances: 9}}})
	rule(t, err, "access_policy")
}

func TestRefusedGrants(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	past, far := time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	good := owners.NewGrant{Version: owners.Version, Session: "s", App: "app", Services: services{"a": {Instances: 1}}}

	for name, c := range map[string]struct {
		edit func(*owners.NewGrant)
		rule problem.Rule
	}{
		"no service":         {func(r *owners.NewGrant) { r.Services = nil }, "grant_services"},
		"an unknown service": {func(r *owners.NewGrant) { r.Services = services{"x": {Instances: 1}} }, "service_unknown"},
		"both numbers":       {func(r *owners.NewGrant) { r.Services = services{"a": {Instances: 1, Runs: 1}} }, "grant_number"},
		"no number":          {func(r *owners.NewGrant) { r.Services = services{"a": {}} }, "grant_number"},
		"a negative number":  {func(r *owners.NewGrant) { r.Services = services{"a": {Instances: -1}} }, "grant_number"},
		"a huge number":      {func(r *owners.NewGrant) { r.Services = services{"a": {Instances: 1 << 40}} }, "grant_number"},
		"no app":             {func(r *owners.NewGrant) { r.App = "" }, "app_name"},
		"an app of escapes":  {func(r *owners.NewGrant) { r.App = "\x1b[2J" }, "app_name"},
		"used by yesterday":  {func(r *owners.NewGrant) { r.UseBy = &past }, "use_by"},
		"used by next year":  {func(r *owners.NewGrant) { r.UseBy = &far }, "use_by"},
		"ended":              {func(r *owners.NewGrant) { r.Until = &past }, "until"},
		"another version":    {func(r *owners.NewGrant) { r.Version = 7 }, "api_version"},
		"an unknown session": {func(r *owners.NewGrant) { r.Session = "x" }, "session_unknown"},
	} {
		req := good
		c.edit(&req)
		_, err := w.MakeGrant(t.Context(), w.owner, req)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		rule(t, err, string(c.rule))
	}
}

func TestCodeIsGoodOnce(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	made := w.submit(w.owner, "s", services{"a": {Instances: 3}, "j": {Runs: 1}})
	if len(made.Code) > owners.MaxCode || strings.ContainsAny(made.Code, "\n ") {
		t.Errorf("code of %d bytes", len(made.Code))
	}

	first := w.claim(provider, made.Code)
	if first.Session != "s" || first.App != "app" || first.Maker != w.owner.Key || first.Services["a"].Instances != 3 ||
		first.Services["j"].Runs != 1 || len(first.Services["j"].Writes) != 1 || first.Services["a"].Writes != nil {
		t.Errorf("%+v", first)
	}

	w.restart()
	again := w.claim(provider, made.Code)
	if !again.Token.Equal(first.Token) {
		t.Error("the same key got another token")
	}
	_, err := w.Claim(t.Context(), cas.Caller{Key: ident.KeyHash{0x98}}, owners.Claim{Version: wire.ReleaseVersion, Code: made.Code})
	rule(t, err, "grant_claimed")

	parsed, err := owners.ParseGrantCode(made.Code)
	if err != nil {
		t.Fatal(err)
	}
	parsed.Secret[0] ^= 1
	_, err = w.Claim(t.Context(), provider, owners.Claim{Version: wire.ReleaseVersion, Code: parsed.String()})
	rule(t, err, "grant_code")
	_, err = w.Claim(t.Context(), provider, owners.Claim{Version: wire.ReleaseVersion, Code: "my-session"})
	rule(t, err, "grant_code")
}

func TestCodeForOneProvider(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	made, err := w.MakeGrant(t.Context(), w.owner, owners.NewGrant{
		Version: owners.Version, Session: "s", App: "app", Services: services{"a": {Instances: 1}}, Provider: provider.Key,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Claim(t.Context(), cas.Caller{Key: ident.KeyHash{0x98}}, owners.Claim{Version: wire.ReleaseVersion, Code: made.Code})
	rule(t, err, "grant_provider")
	w.claim(provider, made.Code)
}

// TestPlaces: never more than the number, whatever happens at once; a place
// becomes free by an exit, a lapse, and the word of the token's holder.
func TestPlaces(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	token := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 3}}).Code).Token

	var mu sync.Mutex
	var running []byte
	var g sync.WaitGroup
	for key := range byte(64) {
		g.Go(func() {
			_, err := w.askUnder(token, key+1, "s", "a")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				running = append(running, key+1)
			} else if p := problem.From(err); p.Rule != "grant_full" || p.Kind != problem.Unavailable {
				t.Errorf("instance %d: %v", key+1, err)
			}
		})
	}
	g.Wait()
	if len(running) != 3 {
		t.Fatalf("%d have rights, want 3", len(running))
	}

	w.restart() // counts survive
	_, err := w.askUnder(token, 100, "s", "a")
	rule(t, err, "grant_full")
	if !strings.Contains(err.Error(), (ident.InstanceID{running[0]}).Short()) {
		t.Errorf("%v: want it to name who has the places", err)
	}
	w.mustAskUnder(token, running[0], "s", "a") // a lost answer takes no second place

	if err := w.exit(running[0]); err != nil {
		t.Fatal(err)
	}
	w.mustAskUnder(token, 100, "s", "a")
	_, err = w.askUnder(token, 101, "s", "a")
	rule(t, err, "grant_full")

	for range 2 { // saying it again is no error
		if err := w.Gone(t.Context(), provider, owners.InstanceGone{Version: wire.ReleaseVersion, Grant: token, Instance: ident.InstanceID{running[1]}}); err != nil {
			t.Fatal(err)
		}
	}
	rule(t, w.beat(running[1]), "instance_gone")
	w.mustAskUnder(token, 101, "s", "a")
}

// TestGoneIsTheHoldersWord: nobody else may say it, and of no other's instance.
func TestGoneIsTheHoldersWord(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	mine := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 3}}).Code).Token
	others := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 3}}).Code).Token
	w.mustAskUnder(mine, 1, "s", "a")

	gone := func(token owners.GrantToken) error {
		return w.Gone(t.Context(), provider, owners.InstanceGone{Version: wire.ReleaseVersion, Grant: token, Instance: ident.InstanceID{1}})
	}
	rule(t, gone(others), "instance_unknown")
	rule(t, gone(owners.GrantToken{}), "grant_other")
	if err := w.beat(1); err != nil {
		t.Error(err)
	}
}

func TestJobRunsOnce(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	token := w.claim(provider, w.submit(w.owner, "s", services{"j": {Runs: 1}}).Code).Token

	r := w.mustAskUnder(token, 1, "s", "j")
	if !r.Job {
		t.Error("the launcher isn't told that it is a job")
	}
	_, err := w.askUnder(token, 2, "s", "j")
	rule(t, err, "grant_full") // one at a time

	// A run that failed uses nothing up.
	if err := w.Exit(t.Context(), cas.Caller{Key: ident.KeyHash{1}}, wire.Exit{Version: wire.ReleaseVersion, Code: 66}); err != nil {
		t.Fatal(err)
	}
	v := w.mustAskUnder(token, 2, "s", "j").Volumes[0]
	if err := w.tag(2, v, 0, ident.Digest{}, ident.Digest{1}); err != nil {
		t.Fatal(err)
	}

	// From the commit on it is used, whatever becomes of the instance, also after a restart.
	if err := w.Gone(t.Context(), provider, owners.InstanceGone{Version: wire.ReleaseVersion, Grant: token, Instance: ident.InstanceID{2}}); err != nil {
		t.Fatal(err)
	}
	_, err = w.askUnder(token, 3, "s", "j")
	rule(t, err, "grant_used")
	w.restart()
	_, err = w.askUnder(token, 3, "s", "j")
	rule(t, err, "grant_used")

	// An exit with 0 uses a run too, once.
	other := w.claim(provider, w.submit(w.owner, "s", services{"j": {Runs: 2}}).Code).Token
	w.mustAskUnder(other, 4, "s", "j")
	if err := w.exit(4); err != nil {
		t.Fatal(err)
	}
	w.mustAskUnder(other, 5, "s", "j")
	if err := w.exit(5); err != nil {
		t.Fatal(err)
	}
	_, err = w.askUnder(other, 6, "s", "j")
	rule(t, err, "grant_used")
}

func TestGrantEnds(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))

	for i, end := range []func(owners.ClaimReply) error{
		func(g owners.ClaimReply) error {
			_, err := w.WithdrawGrant(t.Context(), w.owner, g.Grant)
			return err
		},
		func(g owners.ClaimReply) error {
			return w.GiveBack(t.Context(), provider, owners.GiveBack{Version: wire.ReleaseVersion, Grant: g.Token})
		},
	} {
		key := byte(10 * (i + 1))
		made := w.submit(w.owner, "s", services{"a": {Instances: 3}})
		g := w.claim(provider, made.Code)
		w.mustAskUnder(g.Token, key, "s", "a")
		for range 2 {
			if err := end(g); err != nil {
				t.Fatal(err)
			}
		}

		rule(t, w.beat(key), "instance_withdrawn")
		_, err := w.askUnder(g.Token, key+1, "s", "a")
		rule(t, err, "grant_ended")
		_, err = w.Claim(t.Context(), provider, owners.Claim{Version: wire.ReleaseVersion, Code: made.Code})
		rule(t, err, "grant_ended")
		if got := w.states("s")[key]; got != owners.Withdrawn {
			t.Errorf("state %s", got)
		}
		w.restart()
		_, err = w.askUnder(g.Token, key+1, "s", "a")
		rule(t, err, "grant_ended")
	}

	list, err := w.Grants(t.Context(), w.owner, "s")
	if err != nil || len(list.Grants) != 2 || list.Grants[0].State != owners.GrantEnded || list.Grants[0].EndReason != owners.EndGivenBack {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestGrantIsRenumbered(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	g := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 1}}).Code)
	w.mustAskUnder(g.Token, 1, "s", "a")
	_, err := w.askUnder(g.Token, 2, "s", "a")
	rule(t, err, "grant_full")

	changed, err := w.ChangeGrant(t.Context(), w.owner, g.Grant, owners.GrantChange{Version: owners.Version, Services: services{"a": {Instances: 2}}})
	if err != nil || changed.Services["a"].Instances != 2 || len(changed.Places["a"].Instances) != 1 {
		t.Fatalf("%+v, %v", changed, err)
	}
	w.mustAskUnder(g.Token, 2, "s", "a") // the token is the same

	_, err = w.ChangeGrant(t.Context(), w.owner, g.Grant, owners.GrantChange{Version: owners.Version, Services: services{"a": {Runs: 1}}})
	rule(t, err, "grant_number")
}

// TestUpdateAndGrants: an upload ends a grant only where deploy is written and
// leaves its maker out.
func TestUpdateAndGrants(t *testing.T) {
	w := newWorld(t)
	colleague := cas.Caller{Key: ident.KeyHash{0xcc}}
	both := "update: [CREATOR, " + w.owner.Key.String() + ", " + colleague.Key.String() + "]"
	h := w.put(readers("s", "access_policy: {"+both+"}"))
	g := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 3}}).Code)
	w.mustAskUnder(g.Token, 1, "s", "a")

	update := func(who cas.Caller, h ident.Digest, policy string) ident.Digest {
		t.Helper()
		text := strings.Replace(readers("s", "access_policy: {"+policy+"}"), "name: s\n", "name: s\npredecessor: "+h.String()+"\n", 1)
		created, err := w.PutSession(t.Context(), who, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return created.Hash
	}

	h = update(colleague, h, both)                       // CREATOR moved
	h = update(colleague, h, both+", deploy: [CREATOR]") // and is written
	w.mustAskUnder(g.Token, 2, "s", "a")
	update(colleague, h, both+", deploy: ["+colleague.Key.String()+"]")

	rule(t, w.beat(1), "instance_withdrawn")
	_, err := w.askUnder(g.Token, 3, "s", "a")
	rule(t, err, "grant_ended")
}

// TestTimesOfGrants: a code that nobody claims is worth nothing after a day, a
// claimed grant holds on, and one with an end ends with it.
func TestTimesOfGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.watch()()
		w.put(readers("s"))

		late := w.submit(w.owner, "s", services{"a": {Instances: 1}})
		held := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 1}}).Code)
		until := time.Now().Add(time.Hour)
		made, err := w.MakeGrant(t.Context(), w.owner, owners.NewGrant{Version: owners.Version, Session: "s", App: "app", Services: services{"a": {Instances: 1}}, Until: &until})
		if err != nil {
			t.Fatal(err)
		}
		short := w.claim(provider, made.Code)
		w.mustAskUnder(short.Token, 1, "s", "a")

		for range 7 * 60 {
			time.Sleep(keepAlive)
			_ = w.beat(1)
		}
		rule(t, w.beat(1), "instance_withdrawn")
		_, err = w.askUnder(short.Token, 2, "s", "a")
		rule(t, err, "grant_ended")

		time.Sleep(25 * time.Hour)
		_, err = w.Claim(t.Context(), provider, owners.Claim{Version: wire.ReleaseVersion, Code: late.Code})
		rule(t, err, "grant_ended")
		w.mustAskUnder(held.Token, 3, "s", "a")
	})
}

// TestReturn: an instance that lapsed is attested anew and goes on, unless
// another has its place, or its lease, by then.
func TestReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.watch()()
		w.put(twoWriters("s"))
		token := w.claim(provider, w.submit(w.owner, "s", services{"a": {Instances: 1}, "b": {Instances: 1}}).Code).Token

		v := w.mustAskUnder(token, 1, "s", "a").Volumes[0]
		time.Sleep(5 * keepAlive)
		rule(t, w.beat(1), "instance_lapsed")
		back := w.mustAskUnder(token, 1, "s", "a")
		if err := w.beat(1); err != nil {
			t.Errorf("after its return: %v", err)
		}
		if got := back.Volumes[0]; got.Access != owners.ReadWrite || got.Lease != v.Lease {
			t.Errorf("volume %+v", got)
		}
		if err := w.tag(1, v, 0, ident.Digest{}, ident.Digest{1}); err != nil {
			t.Errorf("commit after the return: %v", err)
		}

		time.Sleep(5 * keepAlive)
		w.mustAskUnder(token, 2, "s", "a") // its place and its lease go to another
		_, err := w.askUnder(token, 1, "s", "a")
		rule(t, err, "grant_full")
		if err := w.exit(2); err != nil {
			t.Fatal(err)
		}
		_, err = w.askUnder(token, 1, "s", "a")
		rule(t, err, "lease_ended")
		w.mustAskUnder(token, 3, "s", "a") // what failed left no place taken
	})
}

// TestNothingInClear: neither row nor log holds code or token.
func TestNothingInClear(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	made := w.submit(w.owner, "s", services{"a": {Instances: 3}})
	token := w.claim(provider, made.Code).Token
	w.mustAskUnder(token, 1, "s", "a")

	entries, _, err := w.Log(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	list, err := w.Grants(t.Context(), w.owner, "s")
	if err != nil {
		t.Fatal(err)
	}
	seen, err := json.Marshal([]any{entries, list})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{made.Code[len("cupel1."):], token.Reveal()[len("cupelgrant1."):]} {
		if strings.Contains(string(seen), secret) || strings.Contains(string(seen), secret[60:]) {
			t.Error("the log or the list of grants shows a code or a token")
		}
	}
	if !strings.Contains(string(seen), made.Grant.ID.String()) {
		t.Error("the log does not name the grant")
	}
	for _, e := range entries {
		if e.Event == "instance_released" && e.Detail["grant"] != made.Grant.ID.String() {
			t.Errorf("%+v: want the grant named", e)
		}
	}
}

// TestStatement: what a measured app says that it stored goes with the tag.
func TestStatement(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s"))
	v := w.mustAsk(1, "s", "j").Volumes[0]
	commit := func(s *owners.Statement) error {
		_, err := w.Commit(t.Context(), cas.Caller{Key: ident.KeyHash{1}}, wire.TagRequest{
			Version: wire.ReleaseVersion, Volume: v.ID, Lease: v.Lease, Tag: ident.Digest{1}, Statement: s,
		})
		return err
	}

	id := strings.Repeat("0a", 20)
	for _, bad := range []owners.Statement{{Commit: "HEAD", Follows: "yes"}, {Commit: id, Follows: "maybe"}, {Commit: id}, {Commit: id + "\n", Follows: "no"}} {
		rule(t, commit(&bad), "statement")
	}
	said := owners.Statement{Commit: id, Pinned: true, Follows: owners.FollowsUnknown}
	if err := commit(&said); err != nil {
		t.Fatal(err)
	}

	w.restart()
	list, err := w.Instances(t.Context(), w.owner, "s")
	if err != nil || len(list.Volumes) != 1 || list.Volumes[0].Statement == nil || *list.Volumes[0].Statement != said ||
		*list.Instances[0].Volumes[0].Statement != said {
		t.Errorf("%+v, %v", list, err)
	}
}
