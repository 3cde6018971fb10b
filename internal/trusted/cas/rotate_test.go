package cas_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas"
)

func (w *world) rotate(secrets, volumes []string) (owners.Rotations, error) {
	return w.Rotate(w.t.Context(), w.owner, owners.Rotate{Version: owners.Version, Session: "s", Secrets: secrets, Volumes: volumes})
}

// TestRotateSecrets: a fresh value with the next release, the old one with those
// who run, and no certificate authority by the way.
func TestRotateSecrets(t *testing.T) {
	w := newWorld(t)
	const secrets = `  - {name: word, kind: ascii, size: 30}
  - {name: other, kind: ascii, size: 30}
  - {name: given, kind: ascii, value: mine}
  - {name: ca_key, kind: private-key}
  - {name: ca, kind: x509-ca, private_key: ca_key, common_name: CA, export_public: true}
  - {name: key, kind: private-key}
  - {name: cert, kind: x509, private_key: key, issuer: ca, dns: [app.example]}`
	w.put(withSecrets("s", "", secrets, `W: $$SCONE::word$$, O: $$SCONE::other$$, C: $$SCONE::cert$$, H: "$$SCONE::cert:chain$$", G: $$SCONE::given$$`))
	first := env(w.mustAsk(1, "s", "a"))

	out, err := w.rotate([]string{"word", "key"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range out.Secrets {
		if !r.Pending || !slices.Equal(r.Old, []ident.InstanceID{{1}}) && r.Name == "word" {
			t.Errorf("%+v: want it pending, with instance 1 on the old value", r)
		}
	}
	second := env(w.mustAsk(2, "s", "a"))
	if second["W"] == first["W"] || second["C"] == first["C"] {
		t.Error("a rotated value stayed")
	}
	if second["O"] != first["O"] || second["H"] != first["H"] || second["G"] != first["G"] {
		t.Error("a value changed that nobody named")
	}
	w.restart()
	list, err := w.Rotations(t.Context(), w.owner, "s")
	if err != nil || len(list.Secrets) != 2 || list.Secrets[1].Pending || !slices.Equal(list.Secrets[1].Old, []ident.InstanceID{{1}}) {
		t.Errorf("%+v, %v", list, err)
	}
	if third := env(w.mustAsk(3, "s", "a")); third["W"] != second["W"] {
		t.Error("a restart rotated again")
	}

	for name, want := range map[string]string{"ca_key": "rotate_ca", "given": "secret_given", "none": "secret_unknown"} {
		if _, err := w.rotate([]string{name}, nil); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			rule(t, err, want)
		}
	}
	_, err = w.rotate(nil, nil)
	rule(t, err, "rotate_nothing")
	_, err = w.Rotate(t.Context(), provider, owners.Rotate{Version: owners.Version, Session: "s", Secrets: []string{"word"}})
	rule(t, err, "access_policy")

	if _, err := w.rotate([]string{"ca"}, nil); err != nil {
		t.Fatal(err)
	}
	if fourth := env(w.mustAsk(4, "s", "a")); fourth["H"] == first["H"] || fourth["C"] == second["C"] {
		t.Error("the authority stayed, though it was named")
	}
}

// TestRotatedValuesArePublishedWithTheRelease: who reads the public values gets what
// instances have, and makes nothing; a renewal that the app takes counts as new.
func TestRotatedValuesArePublishedWithTheRelease(t *testing.T) {
	w := newWorld(t)
	const secrets = `  - {name: ca_key, kind: private-key}
  - {name: ca, kind: x509-ca, private_key: ca_key, common_name: CA, export_public: true}
  - {name: word, kind: ascii, size: 30, export_public: true}
  - {name: cert, kind: x509, issuer: ca, dns: [app.example]}`
	h := w.put(strings.Replace(withSecrets("s", "", secrets, `W: $$SCONE::word$$, C: $$SCONE::cert$$, H: "$$SCONE::cert:chain$$"`), "    command: a\n", "    command: a\n    cupel: {on_renewal: SIGHUP}\n", 1))
	published := func() string {
		v, err := w.Values(t.Context(), cas.Caller{}, cas.ValueRef{Session: "s"})
		if err != nil || v.Values["ca"].Value == "" || v.Values["word"].Value == "" {
			t.Fatalf("%v, %v", v, err)
		}
		return v.Values["ca"].Value + v.Values["word"].Value
	}
	old := published()
	w.mustAsk(1, "s", "a")

	if _, err := w.rotate([]string{"ca", "word"}, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if published() != old {
			t.Error("a reader changed what is published")
		}
		list, err := w.Rotations(t.Context(), w.owner, "s")
		if err != nil || !list.Secrets[0].Pending || len(list.Secrets[0].Old) != 1 {
			t.Errorf("%+v, %v", list, err)
		}
		w.restart()
	}

	first := env(w.mustAsk(2, "s", "a"))
	fresh := published()
	if fresh == old || !strings.Contains(fresh, first["W"]) {
		t.Error("the release's values are not published")
	}
	w.restart()
	if published() != fresh || env(w.mustAsk(3, "s", "a"))["W"] != first["W"] {
		t.Error("a start made others")
	}

	if err := w.beat(1); err != nil {
		t.Fatal(err)
	}
	w.mustAsk(1, "s", "a") // renewed
	list, err := w.Rotations(t.Context(), w.owner, "s")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list.Secrets {
		if r.Pending || r.Name != "ca_key" && len(r.Old) != 1 { // nothing that stands in the environment is renewed
			t.Errorf("after the renewal: %+v", r)
		}
	}

	// A value that was to be fresh doesn't come back with a later version.
	for i, writes := range []bool{false, true} {
		key := byte(10 + 2*i)
		before := env(w.mustAsk(key, "s", "a"))["W"]
		if _, err := w.rotate([]string{"word"}, nil); err != nil {
			t.Fatal(err)
		}
		h = w.put(withSecrets("s", "predecessor: "+h.String(), strings.Split(secrets, "  - {name: word")[0], "H: x"))
		if writes {
			if _, err := w.rotate([]string{"ca"}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.exit(key); err != nil {
			t.Fatal(err)
		}
		w.restart()
		h = w.put(withSecrets("s", "predecessor: "+h.String(), secrets, "W: $$SCONE::word$$"))
		if got := env(w.mustAsk(key+1, "s", "a"))["W"]; got == before {
			t.Errorf("the value from before came back; writes between: %v", writes)
		}
		if err := w.exit(key + 1); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheOldValueOfAnOldVersion: who runs by a version that had the secret is named,
// also where the current one has it no more.
func TestTheOldValueOfAnOldVersion(t *testing.T) {
	w := newWorld(t)
	const secrets = "  - {name: word, kind: ascii, size: 30}\n  - {name: other, kind: ascii, size: 30}"
	h := w.put(withSecrets("s", "", secrets, `O: $$SCONE::other$$, W: $$SCONE::word$$`))
	w.mustAsk(1, "s", "a")
	w.put(withSecrets("s", "predecessor: "+h.String(), secrets, `O: $$SCONE::other$$`))
	w.mustAsk(2, "s", "a")
	list, err := w.rotate([]string{"word"}, nil)
	if err != nil || !slices.Equal(list.Secrets[0].Old, []ident.InstanceID{{1}}) {
		t.Errorf("%+v, %v", list.Secrets, err)
	}
}

// TestServicesShareARotatedValue: the first release after a rotation makes it, for
// all services.
func TestServicesShareARotatedValue(t *testing.T) {
	w := newWorld(t)
	w.put(replaceCode(`version: "0.3"
name: s
services:
  - {name: a, mrenclaves: [CODE], command: a, environment: {W: $$SCONE::word$$}}
  - {name: b, mrenclaves: [CODE], command: b, environment: {W: $$SCONE::word$$}}
secrets: [{name: word, kind: ascii, size: 30}, {name: nobodys, kind: ascii, size: 30, export_public: true}]
`))
	published := func() string {
		v, err := w.Values(t.Context(), cas.Caller{}, cas.ValueRef{Session: "s", Secret: "nobodys"})
		if err != nil {
			t.Fatal(err)
		}
		return v.Values["nobodys"].Value
	}
	old, was := env(w.mustAsk(1, "s", "a"))["W"], published()
	if _, err := w.rotate([]string{"word", "nobodys"}, nil); err != nil {
		t.Fatal(err)
	}
	a, b := env(w.mustAsk(2, "s", "a"))["W"], env(w.mustAsk(3, "s", "b"))["W"]
	if a == old || a != b {
		t.Errorf("before %q, then %q and %q", old, a, b)
	}
	if published() == was {
		t.Error("what no service has, and so no release makes, stayed")
	}
}

// TestARenewalCountsAsNew: an app that has certificates of the rotated authority in
// files, and takes renewed ones, has no old one after its renewal.
func TestARenewalCountsAsNew(t *testing.T) {
	for files, old := range map[string]int{
		`{path: /tls/cert.pem, content: "$$SCONE::cert$$"}`:                                                0,
		`{path: /tls/cert.pem, content: "$$SCONE::cert$$"}, {path: /tls/ca.pem, content: "$$SCONE::ca$$"}`: 1,
	} {
		w := newWorld(t)
		w.put(replaceCode(`version: "0.3"
name: s
services: [{name: a, image_name: i, mrenclaves: [CODE], command: a, cupel: {on_renewal: SIGHUP}}]
images: [{name: i, injection_files: [` + files + `]}]
secrets:
  - {name: ca_key, kind: private-key}
  - {name: ca, kind: x509-ca, private_key: ca_key, common_name: CA, export_public: true}
  - {name: cert, kind: x509, issuer: ca, dns: [app.example]}
`))
		w.mustAsk(1, "s", "a")
		if list, err := w.rotate([]string{"ca"}, nil); err != nil || len(list.Secrets[0].Old) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		if err := w.beat(1); err != nil {
			t.Fatal(err)
		}
		w.mustAsk(1, "s", "a")
		list, err := w.Rotations(t.Context(), w.owner, "s")
		if err != nil || len(list.Secrets[0].Old) != old {
			t.Errorf("%s: %+v, %v; want %d on the old one", files, list.Secrets, err, old)
		}
	}
}

// TestRotateVolume: the next commit is sealed under a fresh key, and with it the
// one before is forgotten.
func TestRotateVolume(t *testing.T) {
	w := newWorld(t)
	w.put(twoWriters("s"))
	_, err := w.rotate(nil, []string{"v"})
	rule(t, err, "volume_unused")
	a := w.mustAsk(1, "s", "a").Volumes[0]

	// Who began before the rotation commits under the key that it has.
	if _, err := w.rotate(nil, []string{"v"}); err != nil {
		t.Fatal(err)
	}
	one, two := ident.Digest{1}, ident.Digest{2}
	if err := w.tag(1, a, 0, ident.Digest{}, one); err != nil {
		t.Fatal(err)
	}
	if err := w.exit(1); err != nil {
		t.Fatal(err)
	}
	w.restart()

	b := w.mustAsk(2, "s", "b").Volumes[0]
	if !bytes.Equal(b.Key, a.Key) || len(b.NextKey) != 32 || bytes.Equal(b.NextKey, b.Key) {
		t.Fatalf("the next writer: keys of %d and %d bytes", len(b.Key), len(b.NextKey))
	}
	if r := w.mustAsk(3, "s", "r").Volumes[0]; r.NextKey != nil || !bytes.Equal(r.Key, a.Key) {
		t.Error("a reader got the next key")
	}
	if _, err := w.rotate(nil, []string{"v"}); err != nil { // while one has it
		t.Fatal(err)
	}
	again := w.mustAsk(2, "s", "b").Volumes[0]
	if !bytes.Equal(again.NextKey, b.NextKey) {
		t.Error("the answer to a lost one has another key")
	}
	if err := w.tag(2, b, 1, one, two); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if r := w.mustAsk(4, "s", "r").Volumes[0]; !bytes.Equal(r.Key, b.NextKey) || r.NextKey != nil {
		t.Error("what follows isn't opened with the fresh key")
	}
	list, err := w.Rotations(t.Context(), w.owner, "s")
	if err != nil || len(list.Volumes) != 1 || list.Volumes[0].Pending {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestRotateCAWithGivenKey: a key that its owner gave is not said to be rotated
// with its authority, nor to wait for a fresh value for ever.
func TestRotateCAWithGivenKey(t *testing.T) {
	w := newWorld(t)
	w.put(`version: "0.3"
name: s
secrets:
  - {name: key, kind: private-key, value: "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n"}
  - {name: ca, kind: x509-ca, private_key: key, common_name: CA, export_public: true}
`)
	got, err := w.Rotate(t.Context(), w.owner, owners.Rotate{Version: owners.Version, Session: "s", Secrets: []string{"ca"}})
	if err != nil || len(got.Secrets) != 1 || got.Secrets[0].Name != "ca" {
		t.Errorf("%+v, %v; want the authority alone", got.Secrets, err)
	}
}
