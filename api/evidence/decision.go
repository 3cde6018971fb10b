package evidence

import (
	"strings"

	"cupel.dev/cupel/api/problem"
)

// Finding is the outcome of one rule, for a person to read.
type Finding struct {
	Rule     problem.Rule `json:"rule"`
	Claim    string       `json:"claim"`
	Expected string       `json:"expected"`
	Actual   string       `json:"actual"`
	OK       bool         `json:"ok"`
	Mend     string       `json:"mend,omitempty"`
}

// Decision is the outcome of all rules; Accepted only if every Finding is OK.
type Decision struct {
	Accepted bool      `json:"accepted"`
	Findings []Finding `json:"findings"`
}

// Refused is the cause of the error that a refusing Decision makes; it carries
// all findings for who wants more than the first.
type Refused struct{ Findings []Finding }

func (r *Refused) Error() string {
	var rules []string
	for _, f := range r.Findings {
		if !f.OK {
			rules = append(rules, string(f.Rule))
		}
	}
	return "refused by " + strings.Join(rules, ", ")
}

// Err returns nil for an accepted Decision, and otherwise a *problem.Error of
// kind denied that tells of the first rule that failed; *Refused is its cause.
// The zero Decision is no acceptance.
func (d Decision) Err() error {
	if d.Accepted && len(d.Findings) > 0 {
		return nil
	}

	for _, f := range d.Findings {
		if !f.OK {
			return &problem.Error{
				Kind: problem.Denied, Rule: f.Rule, Expected: f.Expected, Actual: f.Claim + ": " + f.Actual, Mend: f.Mend,
				Cause: &Refused{d.Findings},
			}
		}
	}

	return problem.New(problem.Denied, ruleAppraisal, "nothing was appraised")
}
