package cas_test

import (
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
)

// TestAnybodysSession: where anybody may run a session, strangers neither see nor
// change the grants that its owner made, of before that line or after.
func TestAnybodysSession(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s", "access_policy: {deploy: [ANY]}"))
	made := w.submit(w.owner, "s", services{"a": {Instances: 2}})
	w.mustAskUnder(w.claim(provider, made.Code).Token, 1, "s", "a")

	stranger := cas.Caller{Key: ident.KeyHash{0x66}}
	_, err := w.WithdrawGrant(t.Context(), stranger, made.Grant.ID)
	rule(t, err, "access_policy")
	_, err = w.ChangeGrant(t.Context(), stranger, made.Grant.ID, owners.GrantChange{
		Version: owners.Version, Services: services{"a": {Instances: 9}},
	})
	rule(t, err, "access_policy")
	for _, who := range []cas.Caller{stranger, {}} {
		_, err = w.Grants(t.Context(), who, "s")
		rule(t, err, "access_policy")
	}
	if state := w.states("s")[1]; state != owners.Running {
		t.Errorf("the instance is %s", state)
	}

	own := w.submit(stranger, "s", services{"a": {Instances: 1}})
	for who, id := range map[cas.Caller]owners.GrantID{stranger: own.Grant.ID, w.owner: made.Grant.ID} {
		if _, err := w.WithdrawGrant(t.Context(), who, id); err != nil {
			t.Errorf("%s can't withdraw its own: %v", who.Key.Short(), err)
		}
	}
}

// TestStrangersGrantsHideNobodys: where anybody may make grants, the list stays short
// and has the caller's own.
func TestStrangersGrantsHideNobodys(t *testing.T) {
	w := newWorld(t)
	w.put(readers("s", "access_policy: {deploy: [ANY]}"))
	for range 3 {
		w.submit(w.owner, "s", services{"a": {Instances: 1}})
	}
	stranger := caller(9, "192.0.2.9")
	for range 1001 {
		w.submit(stranger, "s", services{"a": {Instances: 1}})
	}
	list, err := w.Grants(t.Context(), w.owner, "s")
	if err != nil || len(list.Grants) != 1000 {
		t.Fatalf("%d grants, %v", len(list.Grants), err)
	}
	own := 0
	for _, g := range list.Grants {
		if g.Maker == w.owner.Key {
			own++
		}
	}
	if own != 3 {
		t.Errorf("%d of the owner's three are listed", own)
	}
}
