package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/audit"
	"cupel.dev/cupel/internal/trusted/httpproblem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// fake is a CAS that can be made to misbehave; the real one is driven through
// this client by the tests of the CAS and of the command line.
type fake struct {
	t        *testing.T
	platform *simtee.Platform
	code     ident.Measurement
	addr     string
	server   *httptest.Server
	leafKey  *ecdsa.PrivateKey

	mu      sync.Mutex
	key     *ecdsa.PrivateKey
	cert    *x509.Certificate
	entries []owners.Entry
	// what to do wrong
	attestation func(*owners.Attestation)
	launch      func(*simtee.Launch)
	clock       time.Duration
	head        func(*owners.SignedHead)
	page        func(*owners.LogPage)
	refuse      *problem.Error
	silent      int                                               // so many calls get no answer
	drips       func(w http.ResponseWriter, gone <-chan struct{}) // writes the answers, until the caller is gone
	requests    []*http.Request
}

func newFake(t *testing.T) *fake {
	t.Helper()
	p, err := simtee.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, platform: p, code: ident.Measurement(ident.Sum([]byte("cupel-cas")))}
	f.newIdentity()
	f.append(3)
	f.start("127.0.0.1:0")
	return f
}

// newIdentity makes another CAS of it.
func (f *fake) newIdentity() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.key = newKey(f.t)
	f.cert = certify(f.t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "CAS"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, nil, &f.key.PublicKey, f.key)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func certify(t *testing.T, c, parent *x509.Certificate, pub *ecdsa.PublicKey, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotBefore.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// leafTemplate is what a TLS leaf should be; tests change it.
func leafTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "cas-instance"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func (f *fake) start(addr string) {
	f.t.Helper()
	f.leafKey = newKey(f.t)
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if addr != "127.0.0.1:0" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			f.t.Fatal(err)
		}
		_ = f.server.Listener.Close()
		f.server.Listener = l
	}
	f.server.TLS = &tls.Config{
		MinVersion: tls.VersionTLS13,
		// httptest sets a certificate of its own: only a new config replaces it.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			leaf := certify(f.t, leafTemplate(), f.cert, &f.leafKey.PublicKey, f.key)
			return &tls.Config{
				MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
				Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, f.cert.Raw}, PrivateKey: f.leafKey}},
			}, nil
		},
	}
	f.server.StartTLS()
	f.addr = f.server.Listener.Addr().String()
	f.t.Cleanup(f.server.Close)
}

// append adds entries to the audit log.
func (f *fake) append(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		f.entries = append(f.entries, owners.Entry{Seq: uint64(len(f.entries) + 1), Time: time.Now().UnixNano(), Event: owners.EventSessionCreated})
	}
}

// rewrite changes an entry that was written before.
func (f *fake) rewrite(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries[i].Request = "rewritten"
}

func (f *fake) cut(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = f.entries[:n]
}

func (f *fake) signedHead() owners.SignedHead {
	var c audit.Chain
	for _, e := range f.entries {
		if err := c.Append(e); err != nil {
			f.t.Error(err)
		}
	}
	h, err := audit.Sign(f.key, c, time.Now().UnixNano())
	if err != nil {
		f.t.Error(err)
	}
	return h
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Clone(context.Background()))
	if f.silent > 0 {
		f.silent--
		panic(http.ErrAbortHandler)
	}
	if f.drips != nil {
		f.drips(w, r.Context().Done())
		return
	}
	head := f.signedHead()
	if f.head != nil {
		f.head(&head)
	}
	w.Header().Set(owners.HeadHeader, owners.EncodeHead(head))
	if f.refuse != nil {
		httpproblem.Write(w, r.Header.Get(owners.HeaderRequestID), f.refuse)
		return
	}
	status, reply := f.reply(r, head)
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(reply); err != nil {
		f.t.Error(err)
	}
}

func (f *fake) reply(r *http.Request, head owners.SignedHead) (int, any) {
	switch {
	case r.URL.Path == owners.PathAttest:
		return http.StatusOK, f.attest(r.URL.Query().Get("nonce"), head)
	case r.URL.Path == owners.PathLog:
		since, err := strconv.Atoi(r.URL.Query().Get("since"))
		if err != nil {
			f.t.Error(err)
		}
		since = min(since, len(f.entries))
		page := owners.LogPage{Version: 1, Entries: f.entries[since:min(since+2, len(f.entries))], Head: head}
		if f.page != nil {
			f.page(&page)
		}
		return http.StatusOK, page
	case r.Method == http.MethodPost && r.URL.Path == owners.PathSessions:
		text, err := io.ReadAll(r.Body)
		if err != nil {
			f.t.Error(err)
		}
		return http.StatusCreated, owners.Created{Hash: ident.Sum(text)}
	case strings.HasSuffix(r.URL.Path, owners.SuffixInstances):
		return http.StatusOK, owners.Instances{Version: 1, Instances: []owners.Instance{{Service: "app", State: owners.Running}}}
	case strings.HasPrefix(r.URL.Path, owners.PathSessions):
		return http.StatusOK, owners.Session{Hash: ident.Sum([]byte("text")), Text: "text"}
	case strings.HasPrefix(r.URL.Path, owners.PathValues+"session=s,secret="):
		return http.StatusOK, owners.Value{Kind: "x509-ca", Value: "PEM"}
	case strings.HasPrefix(r.URL.Path, owners.PathValues):
		return http.StatusOK, owners.Values{Values: map[string]owners.Value{"ca": {Kind: "x509-ca", Value: "PEM"}}}
	default:
		return http.StatusOK, owners.VersionInfo{Version: "0.1.0", API: 1}
	}
}

func (f *fake) attest(nonce string, head owners.SignedHead) owners.Attestation {
	var n [32]byte
	b, err := hex.DecodeString(nonce)
	if err != nil || len(b) != len(n) {
		f.t.Errorf("nonce %q", nonce)
	}
	copy(n[:], b)
	l := simtee.Launch{Measurement: f.code, Signer: simtee.Signer(), Debug: true}
	if f.launch != nil {
		f.launch(&l)
	}
	ev, err := f.platform.Quote(l, wire.CASReportData(n, ident.HashCertKey(f.cert)))
	if err != nil {
		f.t.Error(err)
	}
	a := owners.Attestation{
		Version: 1, Evidence: ev, IdentityCertificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.cert.Raw})),
		Time: time.Now().Add(f.clock), SimulationRoot: string(f.platform.RootPEM()), Head: head,
	}
	if f.attestation != nil {
		f.attestation(&a)
	}
	return a
}
