//go:build e2e

// Package hostile holds the promise that nobody but attested code of a session
// gets the session's secrets: not another session's app in the same image, and
// not the operator, whatever the operator does to an instance's launch, to the
// CAS's state or to sealed data.
//
// The operator's daemon here is a variant that does as CUPEL_HOSTILE says (package
// variants); CAS, launcher and the owner's commands are the product's.
package hostile

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/e2e/harness/variants"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/wire"
)

// scene is the one world of this package's tests.
type scene struct {
	*harness.World
	owner  *harness.Party
	orders string // file with what the hostile operator does
	port   string // public, of the victim's app
}

// victim is the session whose secrets everybody is after; attacker is another
// one, whose app runs in the same image.
const (
	victim   = "victim"
	attacker = "attacker"
)

func TestHostile(t *testing.T) {
	s := newScene(t)
	s.run(t, "another session's app", s.anotherApp)
	s.run(t, "processes outside", s.outsiders)
	s.run(t, "launches", s.launches)
	s.run(t, "rogue CAS", s.rogueCAS)
	s.run(t, "older sealed data", s.olderData)
	s.run(t, "row put back", s.rowPutBack)
	s.run(t, "opt-ins", s.optIns)
	s.run(t, "honest again", s.honest)
}

// newScene brings a hostile operator up, who behaves until told otherwise, and
// deploys the victim twice, so that there is something older to put back.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{orders: filepath.Join(t.TempDir(), "orders")}
	s.World = harness.New(t, harness.Config{Bin: harness.Variant(t, variants.Hostile), UpEnv: s.env()})
	s.port = number(harness.FreePort(t))
	s.owner = s.Owner("owner")
	s.Git.Push("app", harness.ExampleApp(s.World))
	s.BuildRuntimes("puller", "python")
	s.owner.Vouch("puller", "python")
	s.owner.AttestCAS()
	s.owner.CreateSession(victim, "app")
	for range 2 {
		s.deploy()
	}
	return s
}

func (s *scene) env() []string { return []string{"CUPEL_HOSTILE=@" + s.orders} }

func (s *scene) deploy() { s.owner.MustRun("deploy", victim, "--memory", "256M", "--port", s.port) }

// run is t.Run with the world's failures given to the part that caused them.
func (s *scene) run(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		whole := s.T
		s.T = t
		defer func() { s.T = whole; s.order("") }()
		f(t)
	})
}

// order tells the operator's node what to do from now on.
func (s *scene) order(what string) {
	s.T.Helper()
	if err := os.WriteFile(s.orders, []byte(what), 0o600); err != nil {
		s.T.Fatal(err)
	}
}

// released lists the instances of the victim that the CAS ever released to.
func (s *scene) released() []ident.InstanceID {
	s.T.Helper()
	var ids []ident.InstanceID
	for _, i := range s.owner.CASInstances(victim) {
		ids = append(ids, i.ID)
	}
	return ids
}

// refused deploys the victim, which must end by the rule, with nothing released.
func (s *scene) refused(rule string) harness.Problem {
	s.T.Helper()
	before := s.released()
	p := s.owner.MustNotDeploy(rule, victim, "--port", s.port)
	if after := s.released(); !slices.Equal(after, before) {
		s.T.Errorf("the CAS released to somebody: %d instances, were %d", len(after), len(before))
	}
	s.T.Logf("refused: %s: %s; expected: %s; mend: %s", p.Rule, p.Actual, p.Expected, p.Mend)
	return p
}

// honest: all that was refused was refused for what the operator did.
func (s *scene) honest(t *testing.T) {
	s.deploy()
	if err := s.owner.ExpectHealthy(victim, 1); err != nil {
		t.Error(err)
	}
	s.owner.MustRun("verify", victim)
	s.owner.MustRun("audit", "verify")
}

// captured is evidence as the operator may have recorded it when an instance of
// the session started: genuine, of that launch, for another connection. The
// simulated platform makes it again.
func (s *scene) captured(session ident.SessionName, service ident.ServiceName) (json.RawMessage, []byte) {
	s.T.Helper()
	platform, err := simtee.Open(filepath.Join(s.State, "simtee"), time.Now)
	if err != nil {
		s.T.Fatal(err)
	}
	var cas ident.KeyHash
	if err := cas.UnmarshalText([]byte(s.Info().CAS.Identity)); err != nil {
		s.T.Fatal(err)
	}
	launch := simtee.Launch{Signer: simtee.Signer(), Debug: true, ConfigID: wire.LaunchBinding(cas, session, service)}
	for _, i := range s.owner.CASInstances(string(session)) {
		if i.Service == service {
			launch.Measurement = i.Claims.Measurement
		}
	}
	if launch.Measurement.IsZero() {
		s.T.Fatalf("no instance of %s/%s was released", session, service)
	}
	ev, err := platform.Quote(launch, wire.ReportData([32]byte{1}, ident.KeyHash{2}))
	if err != nil {
		s.T.Fatal(err)
	}
	b, err := json.Marshal(ev)
	if err != nil {
		s.T.Fatal(err)
	}
	return b, ev.Quote
}
