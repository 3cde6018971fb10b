package cli_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

// scriptProvider is what a script's manager is to owners on other machines: how it
// shows itself to them.
type scriptProvider struct {
	cert atomic.Pointer[tls.Certificate] // nil: the test server's
	key  atomic.Pointer[ident.KeyHash]   // that it says to claim with; nil: the true one
	race atomic.Pointer[home.Dir]        // where somebody keeps another certificate when it is asked; nil: nobody does
}

// config shows the certificate that the script chose.
func (p *scriptProvider) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	cert := p.cert.Load()
	if cert == nil {
		return nil, nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*cert}}, nil
}

// routes adds what only owners on other machines ask for.
func (p *scriptProvider) routes(m *scriptManager, mux *http.ServeMux) {
	env := m.cas.env
	mux.HandleFunc("GET "+manager.PathInfo, func(w http.ResponseWriter, r *http.Request) {
		info := manager.Info{
			Version: manager.Version, Release: "test", Backend: "nodes", Registry: "127.0.0.1:5050",
			CAS: manager.CAS{Owners: "127.0.0.1:" + portOf(env.Owners), Instances: "0.0.0.0:" + portOf(env.Instances), Identity: env.Identity},
		}
		leaf, err := x509.ParseCertificate(m.holder.Certificate.Certificate[0])
		if err != nil {
			panic(err) // a test's own certificate
		}
		info.OperatorKey = ident.HashCertKey(leaf)
		if key := p.key.Load(); key != nil {
			info.OperatorKey = *key
		}
		if dir := p.race.Swap(nil); dir != nil {
			if err := dir.UpdateProviders(r.Context(), func(all home.Providers) error {
				all[r.Host] = home.Provider{Certificate: &ident.Digest{0x11}, OperatorKey: info.OperatorKey, Since: time.Now()}
				return nil
			}); err != nil {
				panic(err) // a test's own folder
			}
		}
		_ = json.NewEncoder(w).Encode(info)
	})
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// providerCommand is `provider`, after `manager start`: it takes the state folder away,
// as on another machine, and sets $PROVIDER_URL. `provider another` has it show another
// certificate, `provider operator` name another operator's key (`provider zero` none),
// `provider public` show a certificate for localhost of the authority in public-ca.pem.
// `provider race` has another command of the owner's keep another certificate while the
// next one asks.
func providerCommand(ts *testscript.TestScript, neg bool, args []string) {
	m, ok := ts.Value(scriptManagerKey{}).(*scriptManager)
	if !ok || m.server == nil || neg || len(args) > 1 {
		ts.Fatalf("usage: provider [another | operator | zero | public | race], after manager start")
	}
	switch strings.Join(args, "") {
	case "":
		ts.Check(os.RemoveAll(ts.Getenv("CUPEL_STATE")))
		ts.Setenv("PROVIDER_ADDRESS", m.server.Listener.Addr().String())
		ts.Setenv("PROVIDER_PORT", portOf(m.server.Listener.Addr().String()))
		ts.Setenv("PROVIDER_URL", "https://"+m.server.Listener.Addr().String())
	case "another":
		cert, _ := certificate(ts)
		m.remote.cert.Store(&cert)
	case "operator":
		m.remote.key.Store(&ident.KeyHash{0xee})
	case "zero":
		m.remote.key.Store(&ident.KeyHash{})
	case "race":
		dir, err := home.Open(ts.Getenv("CUPEL_CONFIG"))
		ts.Check(err)
		m.remote.race.Store(dir)
	case "public":
		cert, ca := certificate(ts)
		m.remote.cert.Store(&cert)
		ts.Check(os.WriteFile(filepath.Join(ts.Getenv("WORK"), "public-ca.pem"), ca, 0o600))
	}
}

// certificate makes one for localhost, and the authority that it is by.
func certificate(ts *testscript.TestScript) (tls.Certificate, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "A public authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	authority, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	ts.Check(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	ts.Check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority})
}
