package evidence

import (
	"strings"

	"cupel.dev/cupel/api/ident"
)

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

// Known reports whether t is a tolerance of the language.
func (t Tolerance) Known() bool {
	switch t {
	case DebugMode, Simulation, Hyperthreading, InsecureIGPU, SoftwareHardening, InsecureConfiguration, OutdatedTCB, AEPICLeak:
		return true
	}

	root, ok := t.SimulationRoot()
	return ok && t == SimulationUnder(root)
}
