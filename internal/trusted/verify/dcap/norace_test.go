//go:build !race

package dcap_test

// flipStep: every byte.
const flipStep = 1
