package secrets_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/session"
)

const made = `version: "0.3"
name: s
images:
  - name: i
    injection_files:
      - {path: /word, content: "word=$$SCONE::word$$"}
      - {path: /cert, content: "$$SCONE::own$$"}
services:
  - name: a
    image_name: i
    mrenclaves: [MRENCLAVE]
    command: run $$SCONE::key:hex$$
    environment: {K: "$$SCONE::key:base64$$", G: $$SCONE::given$$}
secrets:
  - {name: word, kind: ascii, size: 30}
  - {name: key, kind: binary, size: 32}
  - {name: given, kind: ascii, value: mine}
  - {name: ca_key, kind: private-key}
  - {name: ca, kind: x509-ca, private_key: ca_key, common_name: CA}
  - {name: shared_key, kind: private-key, key_type: Ed25519}
  - {name: shared, kind: x509, private_key: shared_key, issuer: ca, dns: [app.example], endpoint: server, valid_for: 30h}
  - {name: own, kind: x509, issuer: ca, dns: [app.example], endpoint: server, valid_for: 10h}
`

// box is a session whose secrets are resolved, and the rows of what was generated.
type box struct {
	t    *testing.T
	s    *session.Session
	now  time.Time
	kept map[string]secrets.Value
	rows map[string][]byte
}

func open(t *testing.T, text string) *box {
	t.Helper()
	s, err := session.Parse([]byte(strings.ReplaceAll(text, "MRENCLAVE", strings.Repeat("ab", 32))))
	if err != nil {
		t.Fatal(err)
	}
	return &box{t: t, s: s, now: time.Now(), kept: map[string]secrets.Value{}, rows: map[string][]byte{}}
}

func (b *box) defined() map[string]session.Secret {
	out := map[string]session.Secret{}
	for _, sec := range b.s.Secrets {
		out[sec.Name] = sec
	}
	return out
}

func (b *box) source() secrets.Source {
	return secrets.Source{
		Secrets: b.defined(),
		Kept:    b.kept,
		Read:    func(_ context.Context, name string) ([]byte, error) { return b.rows[name], nil },
		Now:     b.now,
	}
}

// resolve is Resolve by somebody who keeps what was made.
func (b *box) resolve(src secrets.Source, names ...string) secrets.Resolved {
	b.t.Helper()
	got, err := src.Resolve(b.t.Context(), names)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range got.Made {
		b.kept[m.Name], b.rows[m.Name] = m.Value, m.Row
	}
	return got
}

func text(t *testing.T, m *secrets.Material, format string) string {
	t.Helper()
	out, err := m.Render(session.Ref{Secret: "x", Format: format})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func names(made []secrets.Made) []string {
	var out []string
	for _, m := range made {
		out = append(out, m.Name)
	}
	return out
}

// TestKept: what was generated stays, in memory and over a restart, for as long as it
// would be generated the same way and nobody asked for another.
func TestKept(t *testing.T) {
	b := open(t, made)
	first := b.resolve(b.source(), "word", "shared")
	if got := names(first.Made); !slices.Equal(got, []string{"word", "shared_key", "ca_key", "ca", "shared"}) {
		t.Errorf("made: %v", got)
	}
	for _, restart := range []bool{false, true} {
		if restart {
			clear(b.kept)
		}
		again := b.resolve(b.source(), "word", "shared")
		if len(again.Made) != 0 || text(t, again.Materials["word"], "") != text(t, first.Materials["word"], "") {
			t.Errorf("restart %v: made %v again", restart, names(again.Made))
		}
	}

	src := b.source()
	src.Afresh = map[string]bool{"word": true}
	if got := names(b.resolve(src, "word", "shared").Made); !slices.Equal(got, []string{"word"}) {
		t.Errorf("afresh: %v", got)
	}

	// Another key for the authority makes everything under it another.
	src = b.source()
	src.Afresh = map[string]bool{"ca_key": true}
	if got := names(b.resolve(src, "word", "shared").Made); !slices.Equal(got, []string{"ca_key", "ca", "shared"}) {
		t.Errorf("after another key: %v", got)
	}

	longer := open(t, strings.Replace(made, "size: 30", "size: 31", 1))
	longer.kept, longer.rows = b.kept, b.rows
	if got := longer.resolve(longer.source(), "word"); len(got.Made) != 1 || len(text(t, got.Materials["word"], "")) != 31 {
		t.Errorf("another size: made %v", names(got.Made))
	}
}

// TestRenewal: a certificate is issued again when half of its life is over, but not
// for who only reads; its authority and its key stay.
func TestRenewal(t *testing.T) {
	b := open(t, made)
	first := b.resolve(b.source(), "shared")
	if left := first.Due.Sub(b.now); left < 14*time.Hour || left > 15*time.Hour {
		t.Errorf("due in %s", left)
	}

	b.now = b.now.Add(16 * time.Hour)
	reading := b.source()
	reading.AsTheyAre = true
	if got := b.resolve(reading, "shared"); len(got.Made) != 0 {
		t.Errorf("reading made %v", names(got.Made))
	}
	if got := names(b.resolve(b.source(), "shared").Made); !slices.Equal(got, []string{"shared"}) {
		t.Errorf("made %v", got)
	}
}

// TestCircle: authorities that issue each other are refused, without end of memory.
func TestCircle(t *testing.T) {
	b := open(t, made)
	src := b.source()
	src.Secrets["ca"] = session.Secret{Name: "ca", Kind: session.X509CA, PrivateKey: "ca_key", Issuer: "ca2"}
	src.Secrets["ca2"] = session.Secret{Name: "ca2", Kind: session.X509CA, PrivateKey: "ca_key", Issuer: "ca"}
	_, err := src.Resolve(t.Context(), []string{"ca"})
	if !problem.Is(err, secrets.RuleSecretUnknown) {
		t.Errorf("a circle: %v", err)
	}
	_, err = b.source().Resolve(t.Context(), []string{"none"})
	if !problem.Is(err, secrets.RuleSecretUnknown) {
		t.Errorf("one that isn't there: %v", err)
	}
}

// TestConfigure: what an instance gets, its own certificate included.
func TestConfigure(t *testing.T) {
	b := open(t, made)
	svc := secrets.Service{
		Service: &b.s.Services[0],
		Files:   b.s.Images[0].InjectionFiles,
		Secrets: b.defined(),
		Shared:  []string{"ca", "given", "key", "word"},
		Fresh:   []string{"own"},
	}
	got := b.resolve(b.source(), svc.Shared...)
	cfg, err := secrets.Configure(svc, got.Materials, got.Due)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Fixed() || !cfg.Current(b.now) {
		t.Error("no certificate stands in argv or environment, and none is due")
	}

	id := ident.InstanceID{7}
	own, err := cfg.IssueFor("s", "a", id, b.now)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := cfg.Reply(own)
	if err != nil {
		t.Fatal(err)
	}
	word := text(t, got.Materials["word"], "")
	if want := []string{"run", text(t, got.Materials["key"], "hex")}; !slices.Equal(reply.Argv, want) {
		t.Errorf("argv: %q, want %q", reply.Argv, want)
	}
	env := slices.Sorted(slices.Values(reply.Env))
	if want := []string{"G=mine", "K=" + text(t, got.Materials["key"], "base64")}; !slices.Equal(env, want) {
		t.Errorf("environment: %q, want %q", env, want)
	}
	if f := reply.Files[0]; f.Path != "/word" || string(f.Content) != "word="+word || f.Certificate {
		t.Errorf("file: %+v", f)
	}

	f := reply.Files[1]
	block, _ := pem.Decode(f.Content)
	if block == nil || !f.Certificate {
		t.Fatalf("file: %+v", f)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(text(t, got.Materials["ca"], "")))
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: "app.example", CurrentTime: b.now}); err != nil {
		t.Error(err)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != "cupel://s/a/"+id.String() {
		t.Errorf("URIs: %v", cert.URIs)
	}

	ends, due, err := cfg.Validity(b.now)
	if err != nil || ends.Sub(b.now) != 10*time.Hour || due.Sub(b.now) != 5*time.Hour {
		t.Errorf("ends in %s, due in %s, %v", ends.Sub(b.now), due.Sub(b.now), err)
	}
}

// TestFormats: each format of a kind, and none of another's.
func TestFormats(t *testing.T) {
	value := session.Secret{Name: "v", Kind: session.Binary}
	m, err := secrets.Given(value)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Render(session.Ref{Secret: "v", Format: "chain"}); !problem.Is(err, "secret_format") {
		t.Errorf("a chain of bytes: %v", err)
	}

	b := open(t, made)
	got := b.resolve(b.source(), slices.Sorted(maps.Keys(b.defined()))...)
	for _, c := range []struct {
		secret, format, prefix string
	}{
		{"ca_key", "", "-----BEGIN PRIVATE KEY-----"},
		{"ca", "", "-----BEGIN CERTIFICATE-----"},
		{"shared", "chain", "-----BEGIN CERTIFICATE-----"},
		{"shared", "privatekey", "-----BEGIN PRIVATE KEY-----"},
		{"given", "", "mine"},
		{"key", "hex", ""},
	} {
		if out := text(t, got.Materials[c.secret], c.format); !strings.HasPrefix(out, c.prefix) {
			t.Errorf("%s as %q: %q", c.secret, c.format, out)
		}
	}
	if _, err := got.Materials["given"].Render(session.Ref{Secret: "given", Format: "privatekey"}); !problem.Is(err, "secret_format") {
		t.Errorf("the key of a word: %v", err)
	}
}

// TestGivenKey: what was given for a private key has to be one.
func TestGivenKey(t *testing.T) {
	_, err := secrets.Given(session.Secret{Name: "k", Kind: session.PrivateKey})
	if !problem.Is(err, "secret_value") {
		t.Error(err)
	}
}
