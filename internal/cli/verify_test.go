package cli

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/release"
	"cupel.dev/cupel/internal/trusted/session"
)

// TestVerifyJudgesTheClaims: what a CAS lists as running is held to the session
// by the same rules as a release, so that a CAS that let something in is found.
func TestVerifyJudgesTheClaims(t *testing.T) {
	root, other := ident.Digest{1}, ident.Digest{2}
	code, cas := ident.Measurement{3}, ident.KeyHash{4}
	simulated := attest.Claims{
		Type:        attest.SGX,
		Measurement: code,
		ConfigID:    release.LaunchBinding(cas, "s", "app"),
		Debug:       true,
		Simulated:   true,
		Root:        root,
		TCBStatus:   "UpToDate",
	}
	for name, c := range map[string]struct {
		tolerate string
		claims   func(c *attest.Claims)
		refused  string // part of the message; "" is accepted
	}{
		"as tolerated":               {"simulation:" + root.String(), func(*attest.Claims) {}, ""},
		"another root":               {"simulation:" + other.String(), func(*attest.Claims) {}, "SIMULATED (root 01"},
		"a bare simulation":          {"simulation", func(*attest.Claims) {}, "without naming its root"},
		"a bare one, and other code": {"simulation", func(c *attest.Claims) { c.Measurement = ident.Measurement{9} }, "do not use the app"},
		"a real debug enclave":       {"simulation:" + root.String(), func(c *attest.Claims) { c.Simulated = false }, "debug mode: on"},
		"other code":                 {"simulation:" + root.String(), func(c *attest.Claims) { c.Measurement = ident.Measurement{9} }, "measurement: 09"},
		"another launch":             {"simulation:" + root.String(), func(c *attest.Claims) { c.ConfigID = attest.Data64{9} }, "launched for another"},
		"an outdated platform":       {"simulation:" + root.String(), func(c *attest.Claims) { c.TCBStatus = "OutOfDate" }, "tcb_status"},
	} {
		s, err := session.Parse(fmt.Appendf(nil, "version: \"0.3\"\nname: s\nservices: [{name: app, mrenclaves: [%s]}]\n"+
			"security: {attestation: {tolerate: [%q]}}\n", code, c.tolerate))
		if err != nil {
			t.Fatal(err)
		}
		claims := simulated
		c.claims(&claims)

		err = checkInstance(s, cas, api.Instance{Service: "app", State: api.Running, Claims: claims})
		switch {
		case c.refused == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.refused != "" && (problem.KindOf(err) != problem.Denied || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s: %v, want %q", name, err, c.refused)
		}
	}
}

// TestNobodyIsNotSomebodyElse: where the app is gone and its port still taken, a
// connection is reset or closed, and no certificate was seen that could be wrong.
func TestNobodyIsNotSomebodyElse(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		rule string
	}{
		"refused":     {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "app_unreachable"},
		"reset":       {&net.OpError{Op: "write", Err: syscall.ECONNRESET}, "app_unreachable"},
		"closed":      {io.EOF, "app_unreachable"},
		"alert":       {&net.OpError{Op: "remote error", Err: tls.AlertError(40)}, "app_certificate"},
		"certificate": {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, "app_certificate"},
	} {
		if p := problem.From(dialProblem("localhost:8080", "localhost", x509.NewCertPool(), time.Now(), c.err)); p == nil || p.Rule != c.rule {
			t.Errorf("%s: %v, want %s", name, p, c.rule)
		}
	}
}
