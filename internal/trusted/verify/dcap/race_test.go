//go:build race

package dcap_test

// flipStep: under the race detector, which makes everything ten times slower,
// every sixteenth byte has to do; `make test` runs this package without it too.
const flipStep = 16
