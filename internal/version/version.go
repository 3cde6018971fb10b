package version

import (
	"cupel.dev/cupel/api/ident"
)

// Set by the linker (-X), never at run time.
var (
	release  = "0.1.0"
	cas      string // SHA-256 of the cupel-cas of the same build
	launcher string // SHA-256 of the cupel-init of the same build
)

// Release is the semantic version.
func Release() string { return release }

// CAS is the measurement of the cupel-cas that was built with this binary: the
// default expectation of `cupel cas attest`. False where the build set none.
func CAS() (ident.Measurement, bool) {
	m, err := ident.ParseMeasurement(cas)
	return m, err == nil
}

// Launcher is the digest of the cupel-init that was built with this binary.
// False where the build set none.
func Launcher() (ident.Digest, bool) {
	d, err := ident.ParseDigest(launcher)
	return d, err == nil
}
