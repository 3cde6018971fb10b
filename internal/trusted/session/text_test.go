package session

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/secret"
	"github.com/google/go-cmp/cmp"
)

func TestExpand(t *testing.T) {
	text, err := parseText("a$$$SCONE::x$$$$SCONE::y:hex|escape(json)$$z$")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Ref{{Secret: "x"}, {"y", "hex", escapeJSON}}, text.Refs()); d != "" {
		t.Error(d)
	}
	v, err := text.Expand(func(r Ref) (secret.Value, error) {
		return secret.NewString(map[string]string{"x": "$$SCONE::y$$", "y": "a\"\n"}[r.Secret]), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(v.Reveal()); got != `a$$$SCONE::y$$a\"\nz$` {
		t.Errorf("got %q", got)
	}
}

func TestFormats(t *testing.T) {
	for kind, table := range formats {
		for spelling, full := range table {
			again, ok := CanonicalFormat(kind, full)
			if full == "text" {
				continue
			}
			if !ok || again != full {
				t.Errorf("%s: %q means %q, which means %q", kind, spelling, full, again)
			}
		}
	}
	if _, ok := CanonicalFormat(ASCII, "hex"); ok {
		t.Error("ascii has no hex")
	}
}

func TestSplitCommand(t *testing.T) {
	for in, want := range map[string][]string{
		"":                        nil,
		"a":                       {"a"},
		"  a\tb\n c ":             {"a", "b", "c"},
		`a "b c" 'd e'f`:          {"a", "b c", "d ef"},
		`a '' ""`:                 {"a", "", ""},
		`a "it's" '"'`:            {"a", "it's", `"`},
		`a\ b`:                    {`a\`, "b"},
		`--x="y z"`:               {"--x=y z"},
		"p$$SCONE::x:hex$$ 'q r'": {"p$$SCONE::x:hex$$", "q r"},
	} {
		got, err := SplitCommand(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", in, d)
		}
	}
}

func TestParseValidity(t *testing.T) {
	const day = 24 * time.Hour
	for in, want := range map[string]time.Duration{
		"60 days": 60 * day, "59d": 59 * day, "1 year": 365 * day, "3560d": 3560 * day, "24h": day, "30 s": 30 * time.Second,
		"5 min": 5 * time.Minute, "2 weeks": 14 * day, "1 minute": time.Minute,
	} {
		if got, err := ParseValidity(in); err != nil || got != want {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0 days", "-1 day", "1", "1 fortnight", "9999999999 years", "101 years", "1.5 days"} {
		if got, err := ParseValidity(in); err == nil {
			t.Errorf("%q accepted as %v", in, got)
		}
	}
}

func TestKeyHashes(t *testing.T) {
	// Public values of both versions; the second was signed by the first's author.
	if _, err := ParseKeyHash("N2exBX7Tpyyu8g2ofoxwfMNVNbL5G4F5Zygso6MyBp78k37gr7"); !errors.Is(err, errSigningKey) {
		t.Errorf("signing key: %v", err)
	}
	if _, err := ParseKeyHash("N2exBX7Tpyyu8g2ofoxwfMNVNbL5G4F5Zygso6MyBp78k37gr8"); !errors.Is(err, errChecksum) {
		t.Errorf("typing error: %v", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ident.HashKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for _, form := range []string{want.String(), base58Check(versionKeyHash, want), string(cert)} {
		if got, err := ParseKeyHash(form); err != nil || got != want {
			t.Errorf("%s: %v %v", form, got, err)
		}
	}
	for _, bad := range []string{"", "x", "-----BEGIN CERTIFICATE-----\n", string(cert) + string(cert), base58Check(2, want)} {
		if got, err := ParseKeyHash(bad); err == nil {
			t.Errorf("%q accepted as %v", bad, got)
		}
	}
}

func TestAllows(t *testing.T) {
	alice, bob := ident.KeyHash{1}, ident.KeyHash{2}
	words := func(w ...string) (out []AccessEntry) {
		for _, s := range w {
			out = append(out, AccessEntry{Word: s})
		}
		return out
	}
	for name, c := range map[string]struct {
		entries []AccessEntry
		caller  ident.KeyHash
		want    bool
	}{
		"creator":              {words(Creator), alice, true},
		"another":              {words(Creator), bob, false},
		"nobody's key":         {words(Creator), ident.KeyHash{}, false},
		"any":                  {words(Any), ident.KeyHash{}, true},
		"none":                 {words(None), alice, false},
		"named":                {[]AccessEntry{{Word: Creator}, {Key: bob}}, bob, true},
		"zero entry, zero key": {[]AccessEntry{{}}, ident.KeyHash{}, false},
		"empty":                {nil, alice, false},
	} {
		for _, op := range []Operation{OpRead, OpUpdate, OpCreateSessions} {
			p := AccessPolicy{Read: c.entries, Update: c.entries, CreateSessions: c.entries}
			if got := p.Allows(op, c.caller, alice); got != c.want {
				t.Errorf("%s %s: %v", name, op, got)
			}
		}
	}
	if (AccessPolicy{Read: words(Any), Update: words(Any)}).Allows("list", alice, alice) {
		t.Error("an unknown operation was allowed")
	}
	if (AccessPolicy{Read: words(Creator)}).Allows(OpRead, ident.KeyHash{}, ident.KeyHash{}) {
		t.Error("a zero caller is the zero creator")
	}
}

func TestHashCoversCreator(t *testing.T) {
	s, err := Parse([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if s.Hash(ident.KeyHash{1}) == s.Hash(ident.KeyHash{2}) {
		t.Error("two creators, one hash")
	}
	golden(t, "small.hash", []byte(s.Hash(ident.KeyHash{1}).String()+"\n"))
}

// base58Check encodes, for tests.
func base58Check(version byte, hash ident.KeyHash) string {
	raw := append([]byte{version}, hash[:]...)
	sum := ident.Sum(raw)
	sum = ident.Sum(sum[:])
	n := new(big.Int).SetBytes(append(raw, sum[:4]...))
	out := make([]byte, base58HashLength)
	for i := range out {
		var digit big.Int
		n.DivMod(n, big.NewInt(58), &digit)
		out[len(out)-1-i] = base58Alphabet[digit.Int64()]
	}
	return string(out)
}
