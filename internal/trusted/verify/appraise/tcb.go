package appraise

import (
	"fmt"
	"slices"
	"strings"

	"cupel.dev/cupel/api/evidence"
)

// allAdvisories stands for every advisory; it only counts with DebugMode.
const allAdvisories = "*"

// tcbNeeds tells which tolerances a TCB status needs. A status that is not here
// (Revoked, or a new word) can't be tolerated.
func tcbNeeds(status string) ([]evidence.Tolerance, bool) {
	switch status {
	case "UpToDate":
		return nil, true
	case "SWHardeningNeeded":
		return []evidence.Tolerance{evidence.SoftwareHardening}, true
	case "ConfigurationNeeded":
		return []evidence.Tolerance{evidence.InsecureConfiguration}, true
	case "ConfigurationAndSWHardeningNeeded":
		return []evidence.Tolerance{evidence.SoftwareHardening, evidence.InsecureConfiguration}, true
	case "OutOfDate":
		return []evidence.Tolerance{evidence.OutdatedTCB}, true
	case "OutOfDateConfigurationNeeded":
		return []evidence.Tolerance{evidence.OutdatedTCB, evidence.InsecureConfiguration}, true
	}
	return nil, false
}

// namedAdvisories are the advisories that a tolerance stands for by its name.
// They still need the tolerance of the status that they come with.
func namedAdvisories(t evidence.Tolerance) []string {
	switch t {
	case evidence.Hyperthreading: // L1TF, MDS: data leaks between threads of one core
		return []string{"INTEL-SA-00161", "INTEL-SA-00233"}
	case evidence.InsecureIGPU:
		return []string{"INTEL-SA-00219"}
	case evidence.AEPICLeak:
		return []string{"INTEL-SA-00657"}
	}
	return nil
}

func judgeTCB(p Policy, c evidence.Claims) evidence.Finding {
	f := evidence.Finding{
		Rule:     ruleTCBStatus,
		Claim:    "platform status",
		Expected: "UpToDate",
		Actual:   c.TCBStatus,
	}

	needs, ok := tcbNeeds(c.TCBStatus)
	if !ok {
		f.Mend = "use another platform: this status can't be tolerated"
		return f
	}

	var missing []string
	for _, t := range needs {
		if !p.tolerates(t) {
			missing = append(missing, string(t))
		}
	}

	f.OK = len(missing) == 0
	if f.OK && len(needs) > 0 {
		f.Expected = "UpToDate, or " + c.TCBStatus + " as tolerated"
	}

	f.Mend = "update the platform, or tolerate " + strings.Join(missing, " and ") + " on purpose"
	return f
}

func judgeAdvisories(p Policy, c evidence.Claims) evidence.Finding {
	f := evidence.Finding{
		Rule:     ruleAdvisories,
		Claim:    "open security advisories",
		Expected: "none",
		Actual:   "none",
	}

	if len(c.Advisories) > 0 {
		f.Actual = strings.Join(c.Advisories, " ")
	}
	if len(p.IgnoreAdvisories) > 0 {
		f.Expected = "none but " + strings.Join(p.IgnoreAdvisories, " ")
	}

	var open []string
	for _, a := range c.Advisories {
		if !p.ignores(a) {
			open = append(open, a)
		}
	}

	f.OK = len(open) == 0
	f.Mend = fmt.Sprintf("update the platform, or ignore %s on purpose", strings.Join(open, " "))
	return f
}

// ignores reports whether an advisory is ignored by its id, by a tolerance that
// names it, or with all others where debug mode is tolerated as well.
func (p Policy) ignores(advisory string) bool {
	if slices.Contains(p.IgnoreAdvisories, advisory) {
		return true
	}

	if slices.Contains(p.IgnoreAdvisories, allAdvisories) && p.tolerates(evidence.DebugMode) {
		return true
	}

	return slices.ContainsFunc(p.Tolerate, func(t evidence.Tolerance) bool { return slices.Contains(namedAdvisories(t), advisory) })
}
