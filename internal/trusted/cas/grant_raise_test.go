package cas_test

import (
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
)

// TestWhoMayUpdateRaisesNothing: the right to update a session is none to have
// more of it run; it lowers numbers, and withdraws.
func TestWhoMayUpdateRaisesNothing(t *testing.T) {
	w := newWorld(t)
	colleague := cas.Caller{Key: ident.KeyHash{0xcc}}
	w.put(readers("s", "access_policy: {deploy: ["+w.owner.Key.String()+"], update: [CREATOR, "+colleague.Key.String()+"]}"))
	id := w.submit(w.owner, "s", services{"a": {Instances: 5}}).Grant.ID
	change := func(who cas.Caller, s services) error {
		_, err := w.ChangeGrant(t.Context(), who, id, owners.GrantChange{Version: owners.Version, Services: s})
		return err
	}

	rule(t, change(colleague, services{"a": {Instances: 50}}), "access_policy")
	rule(t, change(colleague, services{"j": {Runs: 9}}), "access_policy")
	if err := change(colleague, services{"a": {Instances: 2}}); err != nil {
		t.Errorf("lowering: %v", err)
	}
	if err := change(w.owner, services{"a": {Instances: 50}}); err != nil {
		t.Errorf("the owner: %v", err)
	}
	if _, err := w.WithdrawGrant(t.Context(), colleague, id); err != nil {
		t.Errorf("withdrawing: %v", err)
	}
}
