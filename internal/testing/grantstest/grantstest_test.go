package grantstest_test

import (
	"net/http"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/castest"
	"cupel.dev/cupel/internal/testing/grantstest"
)

func TestFake(t *testing.T) {
	f := grantstest.NewFake("cas:1", ident.KeyHash{0xca})
	grantstest.Run(t, grantstest.CAS{
		Addr:     f.Addr,
		Identity: f.Identity,
		Make: func(*testing.T) owners.GrantCode {
			return f.Make(owners.ClaimReply{
				Session: "s", App: "s", Maker: ident.KeyHash{1},
				Services: map[ident.ServiceName]owners.GrantedService{"client-app": {Instances: 2}, "pull_repo": {Runs: 1}},
			})
		},
		Withdraw: func(_ *testing.T, id owners.GrantID) { f.Withdraw(id) },
		Holders:  [2]manager.Grants{f.Holder(ident.KeyHash{9}), f.Holder(ident.KeyHash{8})},
	})
}

// TestHolder holds the real client, at a real CAS, to the same.
func TestHolder(t *testing.T) {
	env := castest.Start(t, castest.Options{})
	owner := env.Owner(t)
	m := ident.Sum([]byte("code")).String()
	service := func(name string) string {
		return "  - name: " + name + "\n    command: app\n    attestation:\n      - mrenclave: [" + m + "]\n"
	}
	text := "name: shop\nversion: \"0.3.10\"\nservices:\n" + service("client-app") + service("pull_repo") +
		"security:\n  attestation:\n    tolerate: [\"simulation:" + ident.Sum(env.Platform.Root().Raw).String() + "\"]\n"
	if _, err := owner.Do(t.Context(), http.MethodPost, owners.PathSessions, []byte(text), nil); err != nil {
		t.Fatal(err)
	}

	var holders [2]manager.Grants
	for i := range holders {
		key, err := castest.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		holders[i] = &client.Holder{Certificate: key.Cert}
	}
	grantstest.Run(t, grantstest.CAS{
		Addr:     ident.Address(env.Instances),
		Identity: env.Identity,
		Make: func(t *testing.T) owners.GrantCode {
			t.Helper()
			made, err := owner.Grant(t.Context(), "shop", map[ident.ServiceName]owners.GrantedService{"client-app": {Instances: 2}, "pull_repo": {Runs: 1}})
			if err != nil {
				t.Fatal(err)
			}
			code, err := owners.ParseGrantCode(made.Code)
			if err != nil {
				t.Fatal(err)
			}
			return code
		},
		Withdraw: func(t *testing.T, id owners.GrantID) {
			t.Helper()
			if _, err := owner.Do(t.Context(), http.MethodDelete, owners.PathGrants+"/"+id.String(), nil, nil); err != nil {
				t.Fatal(err)
			}
		},
		Holders: holders,
	})
}
