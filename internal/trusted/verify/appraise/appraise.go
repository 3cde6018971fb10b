package appraise

import (
	"cupel.dev/cupel/api/evidence"
)

// Policy is what an instance's claims must meet. Identities, ReportData and
// LaunchBinding are required: Appraise answers an error where one is missing.
type Policy struct {
	Identities    []evidence.CodeIdentity // any one suffices; none is an error
	ReportData    *evidence.Data64        // exact
	LaunchBinding *evidence.Data64        // exact: the launch binding, or all zero for a CAS
	Tolerate      []evidence.Tolerance
	// IgnoreAdvisories lists INTEL-SA-nnnnn ids; "*" stands for all and only
	// counts together with DebugMode.
	IgnoreAdvisories []string
}
