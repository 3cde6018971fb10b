package cas_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/wire"
)

func withSecrets(name, predecessor, secrets, env string) string {
	return fmt.Sprintf(`version: "0.3"
name: %s
%s
services:
  - name: a
    mrenclaves: [%s]
    command: a
    environment: {%s}
secrets:
%s
`, name, predecessor, code, env, secrets)
}

// env returns the reply's environment.
func env(r *wire.ReleaseReply) map[string]string {
	out := map[string]string{}
	for _, e := range r.Env {
		k, v, _ := strings.Cut(e, "=")
		out[k] = v
	}
	return out
}

// rows counts generated secrets in the store.
func (w *world) rows(prefix string) (n int) {
	w.store.Lock()
	defer w.store.Unlock()
	for id := range w.store.Rows {
		if strings.HasPrefix(string(id), prefix) {
			n++
		}
	}
	return n
}

func TestGenerated(t *testing.T) {
	w := newWorld(t)
	const secrets = `  - {name: word, kind: ascii, size: 30}
  - {name: key, kind: binary, size: 32}
  - {name: p256, kind: private-key}
  - {name: p384, kind: private-key, key_type: P-384}
  - {name: ed, kind: private-key, key_type: Ed25519}
  - {name: never, kind: ascii}`
	const refs = `W: $$SCONE::word$$, K: "$$SCONE::key:hex$$", B: "$$SCONE::key:base64$$", A: $$SCONE::p256$$, P: $$SCONE::p384$$, E: $$SCONE::ed$$, J: "$$SCONE::word|escape(json)$$"`
	h := w.put(withSecrets("s", "", secrets, refs))
	if n := w.rows("secret/"); n != 0 {
		t.Errorf("%d secrets were generated before anybody asked", n)
	}
	first := env(w.mustAsk(1, "s", "a"))
	if len(first["W"]) != 30 || len(first["K"]) != 64 || len(first["B"]) != 44 {
		t.Errorf("%q", first)
	}
	for _, name := range []string{"A", "P", "E"} {
		block, _ := pem.Decode([]byte(first[name]))
		if block == nil {
			t.Fatalf("%s: %q", name, first[name])
		}
		if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := w.rows("secret/"); n != 5 {
		t.Errorf("%d secrets were generated, want the 5 that the service refers to", n)
	}
	w.restart()
	if again := env(w.mustAsk(2, "s", "a")); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Error("a restart changed generated secrets")
	}
	// An update keeps what is generated the same way, and only that.
	next := strings.Replace(secrets, "size: 32", "size: 16", 1)
	w.put(withSecrets("s", "predecessor: "+h.String(), next, refs))
	updated := env(w.mustAsk(3, "s", "a"))
	if updated["W"] != first["W"] || updated["A"] != first["A"] || len(updated["K"]) != 32 {
		t.Errorf("%q", updated)
	}
}

// TestRenewed: a certificate with valid_for is issued again when half of its
// life is over, under the same CA and key.
func TestRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.Close(); synctest.Wait() }()
		w.put(withSecrets("s", "", `  - {name: ca_key, kind: private-key}
  - {name: ca, kind: x509-ca, private_key: ca_key, common_name: CA, export_public: true}
  - {name: key, kind: private-key}
  - {name: cert, kind: x509, private_key: key, issuer: ca, dns: [app.example], endpoint: server, valid_for: 30h}`,
			`C: $$SCONE::cert$$, H: "$$SCONE::cert:chain$$", K: "$$SCONE::cert:privatekey$$"`))
		values, err := w.Values(t.Context(), cas.Caller{}, cas.ValueRef{Session: "s", Secret: "ca"})
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(values.Values["ca"].Value)) {
			t.Fatal("no CA")
		}
		var certs []string
		for i, wait := range []time.Duration{0, 14 * time.Hour, 2 * time.Hour} {
			time.Sleep(wait)
			e := env(w.mustAsk(byte(i+1), "s", "a"))
			pair, err := tls.X509KeyPair([]byte(e["C"]+e["H"]), []byte(e["K"]))
			if err != nil {
				t.Fatal(err)
			}
			_, err = pair.Leaf.Verify(x509.VerifyOptions{
				Roots: pool, DNSName: "app.example", CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err != nil {
				t.Error(err)
			}
			certs = append(certs, e["C"])
		}
		if certs[0] != certs[1] || certs[1] == certs[2] {
			t.Error("want the same certificate after 14 hours of 30, and another after 16")
		}
	})
}
