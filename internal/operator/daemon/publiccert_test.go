package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cupel.dev/cupel/api/problem"
)

// TestPublicCert: who asks for the public name is shown its certificate, in its renewed
// form once the file changed; everybody else is shown the manager's own.
func TestPublicCert(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCert(t, certFile, keyFile, 1)
	p, err := openPublicCert(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: p.choose}
	s.StartTLS()
	defer s.Close()

	shown := func(name string) int64 {
		t.Helper()
		conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	own := s.Certificate().SerialNumber.Int64()
	for name, want := range map[string]int64{"provider.example.org": 1, "localhost": own, "": own} {
		if got := shown(name); got != want {
			t.Errorf("%q is shown certificate %d, want %d", name, got, want)
		}
	}

	writeCert(t, certFile, keyFile, 2)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(certFile, later, later); err != nil {
		t.Fatal(err)
	}
	if got := shown("provider.example.org"); got != 2 {
		t.Errorf("certificate %d is shown after the renewal", got)
	}
	if err := os.WriteFile(certFile, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := shown("provider.example.org"); got != 2 {
		t.Errorf("certificate %d is shown where the newest can't be read", got)
	}
}

func TestPublicCertRefused(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCert(t, certFile, keyFile, 1)
	for rule, files := range map[string][2]string{
		"usage":        {certFile, ""},
		"manager_cert": {certFile, certFile},
	} {
		_, err := openPublicCert(files[0], files[1], slog.New(slog.DiscardHandler))
		if p := problem.From(err); p == nil || string(p.Rule) != rule || p.Mend == "" {
			t.Errorf("%v: %v, want rule %s", files, err, rule)
		}
	}
	if p, err := openPublicCert("", "", nil); p != nil || err != nil {
		t.Errorf("without files: %v, %v", p, err)
	}
	var none *publicCert
	if cert, err := none.choose(&tls.ClientHelloInfo{ServerName: "x"}); cert != nil || err != nil {
		t.Errorf("without a certificate: %v, %v", cert, err)
	}
}

func writeCert(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"provider.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
