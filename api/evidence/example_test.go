package evidence_test

import (
	"errors"
	"fmt"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// A tolerance names the one simulated platform that is accepted.
func ExampleSimulationUnder() {
	root := ident.Sum([]byte("the DER form of a root certificate"))
	t := evidence.SimulationUnder(root)

	named, ok := t.SimulationRoot()
	fmt.Println(t.Known(), ok, named == root)
	fmt.Println(evidence.Tolerance("simulated").Known())
	// Output:
	// true true true
	// false
}

// A refusing decision is an error of its first rule that failed, and carries all of them.
func ExampleDecision_Err() {
	d := evidence.Decision{Findings: []evidence.Finding{
		{Rule: "debug", Claim: "debug mode", Expected: "off", Actual: "off", OK: true},
		{Rule: "tcb_status", Claim: "platform", Expected: "UpToDate", Actual: "OutOfDate", Mend: "update the platform"},
	}}

	err := d.Err()
	fmt.Println(err)
	refused, ok := errors.AsType[*evidence.Refused](err)
	fmt.Println(problem.KindOf(err), ok, len(refused.Findings))
	// Output:
	// tcb_status: platform: OutOfDate (expected UpToDate); update the platform
	// denied true 2
}
