package home

import (
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Pin is what an owner remembers of a CAS that proved itself.
type Pin struct {
	Identity       ident.KeyHash     `json:"identity"`
	Measurement    ident.Measurement `json:"measurement"`               // that it proved
	Signer         ident.Measurement `json:"signer"`                    // that it proved
	SimulationRoot *ident.Digest     `json:"simulation_root,omitempty"` // that the owner trusted, if it was simulated
	Head           owners.SignedHead `json:"head"`                      // newest end of the audit log that was seen
	Attested       time.Time         `json:"attested"`
}

// Simulation is the simulated root that a session at this CAS may tolerate: the
// one that the owner trusted, by name, when the CAS was attested. A CAS that
// proved itself on hardware gives none, and is a refusal.
func (p Pin) Simulation(address ident.Address) (*ident.Digest, error) {
	if p.SimulationRoot == nil {
		return nil, problem.New(problem.Denied, ruleSimulationUntrusted, "the CAS at %s was attested on hardware: no simulated root is trusted", address).
			Want("a CAS that was attested with --trust-simulation").
			Fix("leave out --simulation, or attest the CAS of the simulated installation: cupel cas attest ADDRESS --trust-simulation ROOT_SHA256")
	}

	root := *p.SimulationRoot
	return &root, nil
}

// Seen is what a CAS shows now.
type Seen struct {
	Identity ident.KeyHash
	Head     owners.SignedHead
	Time     time.Time // the CAS's clock
	Now      time.Time // the owner's
}

// Check refuses a CAS that is not, or can not be, the one that was pinned:
// another identity key, an audit log that is shorter or another than the one
// seen before, a clock more than wire.ClockSkew off. A longer log has still
// to be followed entry by entry (client.VerifyLog).
func (p Pin) Check(seen Seen) error {
	const worry = "do not send it anything; ask whoever runs it, and only if the answer satisfies you, attest it anew: cupel cas attest with --forget"

	switch off := seen.Time.Sub(seen.Now); {
	case seen.Identity != p.Identity:
		return problem.New(problem.Denied, ruleCASIdentityChanged, "the CAS has the identity key %s", seen.Identity).
			Want("%s, as when it was attested on %s", p.Identity, p.Attested.UTC().Format(time.DateOnly)).Fix(worry)
	case seen.Head.Seq < p.Head.Seq:
		return problem.New(problem.Denied, ruleCASLogOlder, "the CAS's audit log ends at entry %d", seen.Head.Seq).
			Want("entry %d or later, which it has shown before", p.Head.Seq).Fix("an old state was put back: %s", worry)
	case seen.Head.Seq == p.Head.Seq && seen.Head.Hash != p.Head.Hash:
		return problem.New(problem.Denied, ruleCASLogForked, "entry %d of the CAS's audit log is %s", seen.Head.Seq, seen.Head.Hash).
			Want("%s, which it has shown before", p.Head.Hash).Fix("there are two histories: %s", worry)
	case off.Abs() > wire.ClockSkew:
		return problem.New(problem.Denied, problem.RuleCASClock, "the CAS's clock says %s, which is %s off", seen.Time.UTC().Format(time.RFC3339), off.Abs().Round(time.Second)).
			Want("at most %s from %s", problem.Duration(wire.ClockSkew), seen.Now.UTC().Format(time.RFC3339)).
			Fix("set the clocks of this machine and of the CAS's right")
	}

	return nil
}

// Pins are the attested CASes, by address (HOST:PORT).
type Pins map[string]Pin

// Sessions are the sessions that the owner created.
type Sessions map[ident.SessionName]SessionRecord

// SessionRecord says where a session is and what it was made from.
type SessionRecord struct {
	CAS            string        `json:"cas"` // address
	Runtime        string        `json:"runtime"`
	Command        string        `json:"command"`
	Volume         string        `json:"volume,omitempty"`
	DNS            []string      `json:"dns,omitempty"`
	Ref            string        `json:"ref,omitempty"`
	OnRenewal      string        `json:"on_renewal,omitempty"`
	Simulation     bool          `json:"simulation,omitempty"`
	SimulationRoot *ident.Digest `json:"simulation_root,omitempty"` // that it tolerates; unknown of a session of before it was kept
	Hash           ident.Digest  `json:"hash"`                      // of its newest version
	At             time.Time     `json:"at"`
}
