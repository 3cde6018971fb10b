package cas_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/wire"
)

const certified = `version: "0.3"
name: s
services:
  - {name: told, image_name: certified, mrenclaves: [CODE], command: a, cupel: {on_renewal: SIGHUP}}
  - {name: rereads, image_name: certified, mrenclaves: [CODE], command: a, cupel: {on_renewal: none}}
  - {name: silent, image_name: certified, mrenclaves: [CODE], command: a}
  - {name: env, image_name: certified, mrenclaves: [CODE], command: a, environment: {C: $$SCONE::keyed$$}, cupel: {on_renewal: SIGHUP}}
  - {name: without, mrenclaves: [CODE], command: a}
secrets:
  - {name: ca_key, kind: private-key}
  - {name: ca, kind: x509-ca, private_key: ca_key, common_name: CA, export_public: true}
  - {name: own, kind: x509, issuer: ca, common_name: own}
  - {name: key, kind: private-key}
  - {name: keyed, kind: x509, private_key: key, issuer: ca, common_name: keyed, export_public: true}
images:
  - name: certified
    injection_files:
      - {path: /own.pem, content: $$SCONE::own$$}
      - {path: /own.key, content: "$$SCONE::own:privatekey$$"}
      - {path: /ca.pem, content: $$SCONE::ca$$}
      - {path: /motd, content: hello}
`

func life(t *testing.T, text string) time.Duration {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("%q is no PEM", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return time.Until(c.NotAfter).Round(time.Hour)
}

// TestLives: an instance's certificate lives for a day, one with the session's
// key for 90, an authority for ten years.
func TestLives(t *testing.T) {
	w := newWorld(t)
	w.put(replaceCode(certified))
	files := map[string]wire.File{}
	for _, f := range w.mustAsk(1, "s", "told").Files {
		files[f.Path] = f
	}
	values, err := w.Values(t.Context(), cas.Caller{}, cas.ValueRef{Session: "s"})
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		text string
		want time.Duration
	}{
		"own":   {string(files["/own.pem"].Content), day},
		"keyed": {values.Values["keyed"].Value, 90 * day},
		"ca":    {values.Values["ca"].Value, 3650 * day},
	} {
		if got := life(t, c.text); got != c.want {
			t.Errorf("%s lives for %s, want %s", name, got, c.want)
		}
	}
	for path, want := range map[string]bool{"/own.pem": true, "/own.key": true, "/ca.pem": false, "/motd": false} {
		if files[path].Certificate != want {
			t.Errorf("%s: renewed %v, want %v", path, files[path].Certificate, want)
		}
	}
	if values.Values["ca"].Renew != nil || values.Values["keyed"].Renew == nil {
		t.Error("an authority is said to be renewed, or a certificate not")
	}
}

// TestWhoIsReplaced: an instance has to be replaced where nothing renews what it
// has while it runs.
func TestWhoIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.put(replaceCode(certified))
	key := byte(0)
	for service, want := range map[ident.ServiceName]bool{"told": false, "rereads": false, "silent": true, "env": true, "without": false} {
		key++
		if r := w.mustAsk(key, "s", service); (r.CertificateUntil != 0) != want {
			t.Errorf("%s: to be replaced by %d, want it %v", service, r.CertificateUntil, want)
		}
	}
}

// TestRenewal: from half of its life on the keep-alive says that a certificate is
// due; attested again, the instance has a fresh one under the same row and place.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.Close(); synctest.Wait() }()
		w.put(replaceCode(certified))
		beat := func() bool {
			t.Helper()
			r, err := w.KeepAlive(context.Background(), cas.Caller{Key: ident.KeyHash{1}}, wire.KeepAlive{Version: wire.ReleaseVersion})
			if err != nil {
				t.Fatal(err)
			}
			return r.CertificateDue
		}

		first := w.mustAsk(1, "s", "told")
		time.Sleep(11 * time.Hour)
		if beat() {
			t.Error("due before half of its life is over")
		}
		w.restart()
		time.Sleep(2 * time.Hour)
		if !beat() {
			t.Fatal("not due after half of its life")
		}
		second := w.mustAsk(1, "s", "told")
		if string(second.Files[0].Content) == string(first.Files[0].Content) || life(t, string(second.Files[0].Content)) != 24*time.Hour {
			t.Error("the renewal gave no fresh certificate")
		}
		if beat() {
			t.Error("due right after the renewal")
		}
		if n := w.events()[owners.EventInstanceRenewed]; n != 1 {
			t.Errorf("%d renewals in the log", n)
		}
		if n := len(w.states("s")); n != 1 {
			t.Errorf("%d instances", n)
		}
		if err := w.exit(1); err != nil {
			t.Fatal(err)
		}
		_, err := w.ask(1, "s", "told") // ended rights end renewal
		rule(t, err, "instance_exited")
	})
}

// TestNothingLeftToRenew: an instance whose session has no certificate for it any
// more is attested once again, and not with every report from then on.
func TestNothingLeftToRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.Close(); synctest.Wait() }()
		w.put(replaceCode(certified))
		beat := func() bool {
			t.Helper()
			r, err := w.KeepAlive(context.Background(), cas.Caller{Key: ident.KeyHash{1}}, wire.KeepAlive{Version: wire.ReleaseVersion})
			if err != nil {
				t.Fatal(err)
			}
			return r.CertificateDue
		}

		w.mustAsk(1, "s", "told")
		bare := strings.NewReplacer("image_name: certified, ", "", "environment: {C: $$SCONE::keyed$$}, ", "").Replace(replaceCode(certified))
		if err := w.update(w.owner, "s", bare); err != nil {
			t.Fatal(err)
		}
		time.Sleep(13 * time.Hour)
		if !beat() {
			t.Fatal("not due after half of its life")
		}
		w.mustAsk(1, "s", "told")
		if beat() {
			t.Error("still due after it was attested again")
		}
		w.restart()
		if beat() {
			t.Error("due again after a restart of the CAS")
		}
	})
}
