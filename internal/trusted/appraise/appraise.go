// Package appraise compares Claims with a Policy and explains the outcome.
//
// It is pure: no I/O, no clock. An absent expectation is an error, never "not
// checked". It knows no session: whoever holds one turns it into a Policy.
package appraise

import (
	"strings"

	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/ident"
)

// Policy is what an instance's claims must meet. Identities, ReportData and
// ConfigID are required: Appraise answers an error where one is missing.
type Policy struct {
	Identities []Identity     // any one suffices; none is an error
	ReportData *attest.Data64 // exact
	ConfigID   *attest.Data64 // exact: the launch binding, or all zero for a CAS
	Tolerate   []Tolerance
	// IgnoreAdvisories lists INTEL-SA-nnnnn ids; "*" stands for all and only
	// counts together with DebugMode.
	IgnoreAdvisories []string
}

// Identity is one accepted code identity: within it, all that is set must hold;
// at least one of Measurements and Signer must be set.
type Identity struct {
	Measurements []ident.Measurement // any
	Signer       *Signer
}

// Signer accepts whatever a key signed, within versions.
type Signer struct {
	MRSigner  ident.Measurement
	ProductID uint16
	SVN       *uint16 // exact; excludes SVNMin and SVNMax
	SVNMin    *uint16
	SVNMax    *uint16
}

// Tolerance is a weakness that the policy's author accepts by name, in the
// words of the SCONE session language.
type Tolerance string

// The tolerances of the language. Beside them stand those of [SimulationUnder].
const (
	DebugMode             Tolerance = "debug-mode"
	Simulation            Tolerance = "simulation" // Cupel's own word, of before it named a root: tolerates nothing
	Hyperthreading        Tolerance = "hyperthreading"
	InsecureIGPU          Tolerance = "insecure-igpu"
	SoftwareHardening     Tolerance = "software-hardening-needed"
	InsecureConfiguration Tolerance = "insecure-configuration"
	OutdatedTCB           Tolerance = "outdated-tcb"
	AEPICLeak             Tolerance = "aepic-leak"
)

// simulationIntro stands before the digest of the root that is tolerated.
const simulationIntro = string(Simulation) + ":"

// SimulationUnder tolerates the simulated platform whose root certificate has
// this SHA-256, and no other: its quotes, and the debug mode that they tell of.
func SimulationUnder(root ident.Digest) Tolerance {
	return Tolerance(simulationIntro + root.String())
}

// SimulationRoot returns the root that a tolerance of [SimulationUnder] names.
// The digest is read as [ident.ParseDigest] does; only the form that
// SimulationUnder writes tolerates anything.
func (t Tolerance) SimulationRoot() (root ident.Digest, ok bool) {
	digest, ok := strings.CutPrefix(string(t), simulationIntro)
	if !ok {
		return ident.Digest{}, false
	}
	root, err := ident.ParseDigest(digest)
	return root, err == nil
}

// Finding is the outcome of one rule, for a person to read.
type Finding struct {
	Rule     string `json:"rule"`
	Claim    string `json:"claim"`
	Expected string `json:"expected"`
	Actual   string `json:"actual"`
	OK       bool   `json:"ok"`
	Mend     string `json:"mend,omitempty"`
}

// Decision is the outcome of all rules; Accepted only if every Finding is OK.
type Decision struct {
	Accepted bool      `json:"accepted"`
	Findings []Finding `json:"findings"`
}
