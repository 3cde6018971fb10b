//go:build e2e

package hostile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/internal/trusted/wire"
)

//go:embed attack.py
var attackProgram string

// outcome is what the attacking app says about one attempt.
type outcome struct {
	Name    string  `json:"name"`
	Got     *string `json:"got"`
	Refusal string  `json:"refusal"`
}

// refusals are the CAS's rules by which the attempts on it must end; the others
// end in the kernel.
var refusals = map[string]string{
	"release with a stranger's key, client-app": "report_data",
	"release with the app's key, client-app":    "report_data",
	"release with a stranger's key, pull_repo":  "report_data",
	"release with the app's key, pull_repo":     "report_data",
	"release with own evidence, client-app":     "config_id",
	"release with own evidence, pull_repo":      "measurement",
	"release without a grant":                   "grant_missing",
	"release with a grant that was made up":     "grant_other",
	"release without evidence":                  "quote_format",
	"release with an edited quote":              "quote_signature",
	"commit a volume":                           "instance_unknown",
	"keep an instance alive":                    "instance_unknown",
	"end an instance":                           "instance_unknown",
	"read the session at the instances' API":    "path",
}

// anotherApp: an app of the session "attacker", in the very same image as the
// victim's, tries every road to the victim's secrets.
func (s *scene) anotherApp(t *testing.T) {
	before := s.released()
	app, quote := s.captured(victim, "client-app")
	pull, _ := s.captured(victim, "pull_repo")
	edited := slices.Clone(quote)
	edited[48+192+3] ^= 1 // in the launch binding
	info, pair := s.Info(), stranger(t)
	// The operator, who is in it, has a grant of the victim's: its evidence is what
	// is tried here.
	grant := strings.TrimSpace(s.owner.MustRun("session", "submit", victim, "--name", "attacked",
		"--service", "client-app=5", "--service", "pull_repo=5", "--token", "--cas-instances", info.CAS.Instances))
	defer s.withdraw("attacked")
	push := func(own json.RawMessage) {
		target, err := json.Marshal(map[string]any{
			"host": "host.cupel.internal", "instances": portOf(t, info.CAS.Instances), "owners": portOf(t, info.CAS.Owners),
			"session": victim, "version": wire.ReleaseVersion, "grant": grant, "captured": map[string]json.RawMessage{"client-app": app, "pull_repo": pull}, "own": own, "edited": edited,
			"tag": wire.TagRequest{Version: wire.ReleaseVersion, Volume: ident.Digest{1}, Lease: 1, From: 2, Tag: ident.Digest{2}},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Git.Push("attacker", map[string]string{"client-app.py": attackProgram, "target.json": string(target), "stranger.pem": pair})
	}
	push(app) // until the attacker has an instance to capture from
	s.owner.CreateSession(attacker, "attacker")
	port := number(harness.FreePort(t))
	s.owner.MustRun("deploy", attacker, "--memory", "256M", "--port", port, "--plain")
	defer s.owner.MustRun("rm", "--app", attacker)
	own, _ := s.captured(attacker, "client-app")
	push(own)
	s.owner.MustRun("deploy", attacker, "--memory", "256M", "--port", port, "--plain")

	id := s.owner.Healthy(attacker)[0]
	var out string
	seen := map[string]bool{}
	s.Eventually(60*time.Second, func() error {
		out = s.owner.MustRun("logs", id)
		if !strings.Contains(out, "ATTEMPTS DONE") {
			return errNotDone
		}
		return nil
	})
	for line := range strings.Lines(out) {
		_, text, ok := strings.Cut(line, "ATTEMPT ")
		if !ok {
			continue
		}
		var o outcome
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		seen[o.Name] = true
		want := refusals[o.Name]
		switch {
		case o.Got != nil:
			t.Errorf("%s: got %s", o.Name, *o.Got)
		case want != "" && o.Refusal != want:
			t.Errorf("%s: refused by %q, want %q", o.Name, o.Refusal, want)
		default:
			t.Logf("%s: nothing: %s", o.Name, o.Refusal)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(refusals)) {
		if !seen[name] {
			t.Errorf("%s was not tried", name)
		}
	}
	if len(seen) < len(refusals)+20 {
		t.Errorf("only %d attempts were made:\n%s", len(seen), out)
	}
	if after := s.released(); !slices.Equal(after, before) {
		t.Errorf("the CAS released the victim's secrets to somebody: %d instances, were %d", len(after), len(before))
	}
}

// stranger is a key that no instance has, with a certificate that it signed.
func stranger(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func number(port uint16) string { return strconv.Itoa(int(port)) }

// withdraw ends the victim's grants of that name.
func (s *scene) withdraw(app string) {
	s.T.Helper()
	var all []owners.Grant
	if err := json.Unmarshal([]byte(s.owner.MustRun("session", "grants", victim, "-o", "json")), &all); err != nil {
		s.T.Fatal(err)
	}
	for _, g := range all {
		if g.App == app && g.State != owners.GrantEnded {
			s.owner.MustRun("session", "grants", victim, "--withdraw", g.ID.String())
		}
	}
}
