package castest

import (
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
)

// TestStrangersNode: somebody with a node of their own, on a platform under the
// very root that the session tolerates, launches the right code in the right way,
// and gets nothing: neither without a grant nor with one for a session of their own.
func TestStrangersNode(t *testing.T) {
	e := begin(t, Options{})
	owner, stranger := e.Owner(t), e.Owner(t)
	create(t, owner, sessionText("shop"))
	create(t, stranger, sessionText("theirs"))
	made, err := stranger.Grant(t.Context(), "theirs", map[ident.ServiceName]owners.GrantedService{"client-app": {Instances: 3}})
	if err != nil {
		t.Fatal(err)
	}
	claimed, err := Claim(t.Context(), e.Instances, e.Identity, stranger.Key, made.Code)
	if err != nil {
		t.Fatal(err)
	}

	in := e.Instance(t, "shop", "client-app", appCode)
	in.Grant = owners.GrantToken{}
	_, _, err = in.Release(t.Context())
	refused(t, err, "grant_missing")
	in.Grant = claimed.Token
	_, _, err = in.Release(t.Context())
	refused(t, err, "grant_other")

	_, err = stranger.Grant(t.Context(), "shop", map[ident.ServiceName]owners.GrantedService{"client-app": {Instances: 1}})
	refused(t, err, "access_policy")
	if n := instances(t, owner, "shop"); len(n) != 0 {
		t.Errorf("the session has instances %v", n)
	}
}
