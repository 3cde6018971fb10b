package template_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net/url"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/owner/template"
)

// A name is refused exactly where nobody could read a certificate that has it.
func TestSessionNamesFitCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	readable := func(name string) bool {
		uri, err := url.Parse("cupel://" + name + "/client-app/" + ident.KeyHash{1}.String())
		if err != nil {
			return false
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{uri}}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			return false
		}
		_, err = x509.ParseCertificate(der)
		return err == nil
	}
	for _, name := range []string{
		"shop", "my.app", "n.", "n..1", ".n", "...", "n~", "~", "_n", "-n", "-", "a.-b", "A.B", "1", "127.0.0.1", "a/b.", "a/..b/.c", "a./b", ".a/b", "a..b/c",
		strings.Repeat("a", 128), strings.Repeat("a.", 63) + "aa", strings.Repeat("a.", 64),
		strings.Repeat(strings.Repeat("x", 127)+"/", 3) + strings.Repeat("y", 128),
	} {
		parsed, err := ident.ParseSessionName(name)
		if err != nil {
			t.Fatal(err)
		}
		refused := template.CheckSessionName(parsed)
		if readable(name) != (refused == nil) {
			t.Errorf("%.40s: a certificate with it is readable: %v; the check says %v", name, readable(name), refused)
		}
		if refused != nil && !strings.Contains(refused.Error(), "dot") {
			t.Errorf("%.40s: %v", name, refused)
		}
	}
}

// A name that looks like a flag is refused where it is given, and nowhere else.
func TestNewSessionNames(t *testing.T) {
	for name, refused := range map[ident.SessionName]bool{"-x": true, "--yes": true, "-": true, "a/-b": false, "x-": false, ".n": true} {
		if err := template.CheckNewSessionName(name); (err != nil) != refused {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := template.CheckSessionName("-x"); err != nil {
		t.Errorf("a session that exists under such a name is of no use any more: %v", err)
	}
}
