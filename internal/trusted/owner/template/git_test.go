package template

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
)

// TestPullInputs reads the table that the puller's own test reads too.
func TestPullInputs(t *testing.T) {
	b, err := os.ReadFile("testdata/pull_inputs.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ What, Value, Refused string }
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	checks := map[string]func(string) error{
		"repository": CheckRepository, "token": CheckToken, "user": CheckUser, "proxy": CheckProxy, "ref": CheckRef,
	}
	for _, c := range cases {
		err := checks[c.What](c.Value)
		switch {
		case c.Refused == "" && err != nil, c.Refused != "" && err == nil:
			t.Errorf("%s %q: %v", c.What, c.Value, err)
		case err == nil:
		case !strings.Contains(said(err), c.Refused):
			t.Errorf("%s %q: %q doesn't say %q", c.What, c.Value, said(err), c.Refused)
		case problem.From(err).Mend == "" || problem.KindOf(err) != problem.Invalid:
			t.Errorf("%s %q: %+v", c.What, c.Value, problem.From(err))
		case c.What != "ref" && len(c.Value) > 8 && strings.Contains(said(err), c.Value):
			t.Errorf("%s: %q repeats what was given", c.What, said(err))
		}
	}
}

// What copying leaves around an input is no part of it.
func TestPasted(t *testing.T) {
	for given, want := range map[string]string{
		"https://git.example.org/app.git ": "https://git.example.org/app.git", "\u00a0tok-en\t\r\n": "tok-en", "\u200bmain": "main", "a pass phrase": "a pass phrase", " \n": "",
		"\ufefftok-en": "\ufefftok-en", // a mark is named
	} {
		if got := Pasted(given); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}

// said is all that a person reads of a refusal.
func said(err error) string {
	p := problem.From(err)
	return p.Actual + "; " + p.Expected + "; " + p.Mend
}

// TestAuthorities has what people have as a file of authorities.
func TestAuthorities(t *testing.T) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	root, secret := block("CERTIFICATE", der), block("PRIVATE KEY", pkcs8)
	broken := block("CERTIFICATE", der[:len(der)-1])

	for name, c := range map[string]struct{ text, refused string }{
		"none":              {"", ""},
		"one":               {root, ""},
		"several":           {root + root + root, ""},
		"with words":        {"Subject: root\n" + root + "# another\n" + root, ""},
		"CRLF":              {strings.ReplaceAll(root+root, "\n", "\r\n"), ""},
		"no newline":        {strings.TrimSpace(root), ""},
		"beside others":     {block("X509 CRL", nil) + root, ""},
		"DER":               {string(der), "is a certificate in DER, not in PEM"},
		"a mark":            {"\xef\xbb\xbf" + root, "begins with a byte order mark"},
		"a key behind":      {root + secret, "holds a private key"},
		"a key before":      {strings.ReplaceAll(secret, "PRIVATE", "ENCRYPTED PRIVATE") + root, "holds a private key"},
		"a key alone":       {block("EC PRIVATE KEY", pkcs8), "holds a private key"},
		"a file's name":     {"ca.pem", "is no certificate in PEM"},
		"a request":         {block("CERTIFICATE REQUEST", der), "is no certificate in PEM"},
		"broken":            {root + broken, "number 2 in it, that can't be read"},
		"cut off":           {root + root[:len(root)-30], "holds 2 certificates of which 1 can be read"},
		"alone and cut off": {root[:len(root)-30], "holds 1 certificates of which 0 can be read"},
		"indented":          {"  " + strings.ReplaceAll(root, "\n", "\n  "), "not at the beginning of a line"},
	} {
		err := CheckAuthorities([]byte(c.text))
		switch {
		case c.refused == "" && err != nil, c.refused != "" && err == nil:
			t.Errorf("%s: %v", name, err)
		case err == nil:
		case !strings.Contains(said(err), c.refused), problem.From(err).Mend == "", problem.From(err).Rule != "git_ca":
			t.Errorf("%s: %q doesn't say %q", name, said(err), c.refused)
		case strings.Contains(said(err), secret[30:60]):
			t.Errorf("%s: %q repeats the key", name, said(err))
		}
	}
}
