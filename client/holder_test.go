package client

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/castest"
)

// TestHolderTrustsNobodyElse: what answers at the address and is not the CAS of
// the code learns neither code nor token, and the refusal has neither.
func TestHolderTrustsNobodyElse(t *testing.T) {
	key, err := castest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	h := &Holder{Certificate: key.Cert}
	env := castest.Start(t, castest.Options{})
	asked := 0
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "https://"+env.Instances+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	web.Config.ErrorLog = log.New(io.Discard, "", 0)
	web.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	web.StartTLS()
	defer web.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()

	code := owners.GrantCode{CAS: env.Identity, Grant: owners.GrantID{1}, Secret: [16]byte{2}}
	token := owners.NewGrantToken(code.Grant, [32]byte{3})
	for _, addr := range []string{web.Listener.Addr().String(), plain.Listener.Addr().String()} {
		_, claim := h.Claim(t.Context(), ident.Address(addr), code)
		for _, err := range []error{claim, h.GiveBack(t.Context(), ident.Address(addr), code.CAS, token), h.Gone(t.Context(), ident.Address(addr), code.CAS, token, ident.InstanceID{1})} {
			p := problem.From(err)
			if p == nil || p.Kind != problem.Unavailable || p.Mend == "" {
				t.Errorf("%s: %v", addr, err)
			}
			if err != nil && (strings.Contains(err.Error(), code.String()) || strings.Contains(err.Error(), token.Reveal())) {
				t.Errorf("the refusal has a secret: %v", err)
			}
		}
	}
	if asked != 0 {
		t.Errorf("a server that proved nothing was sent %d requests", asked)
	}
}

// TestHolderTellsRefusalsFromSilence: what the CAS itself says is not Unavailable.
func TestHolderTellsRefusalsFromSilence(t *testing.T) {
	key, err := castest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	env := castest.Start(t, castest.Options{})
	h := &Holder{Certificate: key.Cert}
	code := owners.GrantCode{CAS: env.Identity, Grant: owners.GrantID{1}, Secret: [16]byte{2}}
	if _, err := h.Claim(t.Context(), ident.Address(env.Instances), code); problem.From(err) == nil || problem.From(err).Rule != "grant_code" {
		t.Errorf("a code that was made up: %v", err)
	}
	if err := h.Gone(t.Context(), ident.Address(env.Instances), env.Identity, owners.NewGrantToken(code.Grant, [32]byte{3}), ident.InstanceID{1}); problem.KindOf(err) != problem.Denied {
		t.Errorf("a token that was made up: %v", err)
	}

	// A clock that is wrong by years can't judge the CAS's certificates.
	h.Now = func() time.Time { return time.Now().AddDate(30, 0, 0) }
	if err := h.Reach(t.Context(), ident.Address(env.Instances), env.Identity); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("Reach: %v", err)
	}
}
