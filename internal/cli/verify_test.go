package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestVerifyJudgesTheClaims: what a CAS lists as running is held to the session
// by the same rules as a release, so that a CAS that let something in is found.
func TestVerifyJudgesTheClaims(t *testing.T) {
	root, other := ident.Digest{1}, ident.Digest{2}
	code, cas := ident.Measurement{3}, ident.KeyHash{4}
	simulated := evidence.Claims{
		Type:          evidence.SGX,
		Measurement:   code,
		LaunchBinding: wire.LaunchBinding(cas, "s", "app"),
		Debug:         true,
		Simulated:     true,
		Root:          root,
		TCBStatus:     "UpToDate",
	}
	for name, c := range map[string]struct {
		tolerate string
		claims   func(c *evidence.Claims)
		refused  string // part of the message; "" is accepted
	}{
		"as tolerated":               {"simulation:" + root.String(), func(*evidence.Claims) {}, ""},
		"another root":               {"simulation:" + other.String(), func(*evidence.Claims) {}, "SIMULATED (root 01"},
		"a bare simulation":          {"simulation", func(*evidence.Claims) {}, "without naming its root"},
		"a bare one, and other code": {"simulation", func(c *evidence.Claims) { c.Measurement = ident.Measurement{9} }, "do not use the app"},
		"a real debug enclave":       {"simulation:" + root.String(), func(c *evidence.Claims) { c.Simulated = false }, "debug mode: on"},
		"other code":                 {"simulation:" + root.String(), func(c *evidence.Claims) { c.Measurement = ident.Measurement{9} }, "measurement: 09"},
		"another launch":             {"simulation:" + root.String(), func(c *evidence.Claims) { c.LaunchBinding = evidence.Data64{9} }, "launched for another"},
		"an outdated platform":       {"simulation:" + root.String(), func(c *evidence.Claims) { c.TCBStatus = "OutOfDate" }, "tcb_status"},
	} {
		s, err := session.Parse(fmt.Appendf(nil, "version: \"0.3\"\nname: s\nservices: [{name: app, mrenclaves: [%s]}]\n"+
			"security: {attestation: {tolerate: [%q]}}\n", code, c.tolerate))
		if err != nil {
			t.Fatal(err)
		}
		claims := simulated
		c.claims(&claims)

		err = checkInstance(s, cas, owners.Instance{Service: "app", State: owners.Running, Claims: claims})
		switch {
		case c.refused == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.refused != "" && (problem.KindOf(err) != problem.Denied || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s: %v, want %q", name, err, c.refused)
		}
	}
}

// TestWhatAnswers: where the app is gone and its port still taken, a connection is
// reset or closed, and no certificate was seen that could be wrong; and what speaks no
// TLS is no impostor by that.
func TestWhatAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(net.Conn)
		kind  answerKind // empty: that depends on who is quicker
		rule  string
		code  int
	}{
		"closed": {func(net.Conn) {}, answersCloses, "app_unreachable", 7},
		"reset": {func(c net.Conn) {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
		}, "", "app_unreachable", 7},
		"alert": {func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, 40})
			_, _ = io.Copy(io.Discard, c)
		}, answersOtherTLS, "app_certificate", 6},
		"http": {func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		}, answersHTTP, "app_plain", 9},
		"greeting": {func(c net.Conn) {
			_, _ = io.WriteString(c, "220 mail\r\n")
			_, _ = io.Copy(io.Discard, c)
		}, answersOther, "app_plain", 9},
		"ends what it doesn't know": {func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }, answersOther, "app_plain", 9},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "localhost:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go answerEach(ln, c.serve)
			p := &appProbe{address: ln.Addr().String(), session: "s", ca: x509.NewCertPool(), now: time.Now()}
			got := p.look(t.Context())
			if e := problem.From(got.problem); c.kind != "" && got.kind != c.kind || e == nil || string(e.Rule) != c.rule || exitCode(got.problem) != c.code {
				t.Errorf("%s, %v: want %s with %s", got.kind, got.problem, c.kind, c.rule)
			}
		})
	}
	t.Run("nobody", func(t *testing.T) {
		p := &appProbe{address: "127.0.0.1:1", ca: x509.NewCertPool(), now: time.Now()}
		if got := p.look(t.Context()); got.kind != answersNothing || problem.KindOf(got.problem) != problem.Unavailable {
			t.Errorf("%s, %v", got.kind, got.problem)
		}
	})
}

// answerEach has each connection served, and closed, until the listener is.
func answerEach(ln net.Listener, serve func(net.Conn)) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			serve(conn)
		}()
	}
}

// TestCodesOfOwnFindings: only what a command found out by itself has a code of its
// own, whatever a server calls what it refuses.
func TestCodesOfOwnFindings(t *testing.T) {
	for _, rule := range []string{string(ruleAppPlain), "app_ended", "exited"} {
		if code := exitCode(problem.New(problem.Denied, problem.Rule(rule), "so says a server")); code != problem.Denied.ExitCode() {
			t.Errorf("%s of a server ends with %d", rule, code)
		}
	}
	plain := (&appProbe{}).unprovable(answersHTTP).problem
	if code := exitCode(fmt.Errorf("look: %w", plain)); code != codeAppPlain || problem.From(plain).Rule != ruleAppPlain {
		t.Errorf("%v ends with %d", plain, code)
	}
}

// TestAppThatAsksForCertificates: an app with the session's certificate that wants one
// of its clients is no impostor. Before TLS 1.3 it doesn't prove itself to who has none.
func TestAppThatAsksForCertificates(t *testing.T) {
	server, ca := sessionServer(t)
	for version, want := range map[uint16]answerKind{tls.VersionTLS13: answersSession, tls.VersionTLS12: answersAsking} {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
			Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12, MaxVersion: version,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go answerEach(ln, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }) // shakes hands first
		p, err := newAppProbe(ln.Addr().String(), "localhost", "shop", ca, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		got := p.look(t.Context())
		if got.kind != want || want == answersSession && got.problem != nil {
			t.Errorf("%s: %s, %v", tls.VersionName(version), got.kind, got.problem)
		}
		if want == answersAsking && (!got.kind.unproven() || strings.Contains(got.problem.Error(), "something else answers")) {
			t.Errorf("%v", got.problem)
		}
	}
}

// sessionServer is a certificate for localhost that names an instance of session shop,
// and the session's CA.
func sessionServer(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	ca, err := x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		URIs:      []*url.URL{{Scheme: "cupel", Host: "shop", Path: "/client-app/" + ident.KeyHash{1}.String()}},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca}))
}
