package appraise

import (
	"fmt"
	"slices"
	"strings"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
)

// Appraise judges c by every rule of p and explains each. The error is about p:
// a policy that leaves out what must be expected, or contradicts itself, judges
// nothing.
func Appraise(p Policy, c evidence.Claims) (evidence.Decision, error) {
	if err := p.check(); err != nil {
		return evidence.Decision{}, err
	}

	d := evidence.Decision{Accepted: true}
	for _, rule := range []func(Policy, evidence.Claims) evidence.Finding{
		judgeSimulation, judgeDebug, judgeIdentity, judgeLaunchBinding, judgeReportData, judgeTCB, judgeAdvisories,
	} {
		f := rule(p, c)
		if f.OK {
			f.Mend = ""
		}

		d.Accepted = d.Accepted && f.OK
		d.Findings = append(d.Findings, f)
	}
	return d, nil
}

// check refuses policies with an expectation missing.
func (p Policy) check() error {
	bad := func(format string, args ...any) error {
		return problem.New(problem.Invalid, rulePolicy, format, args...).Fix("say what is expected: what is absent is never taken as accepted")
	}
	if len(p.Identities) == 0 {
		return bad("no code identity is accepted")
	}

	for i, id := range p.Identities {
		if err := checkIdentity(id); err != nil {
			return bad("code identity %d: %w", i+1, err)
		}
	}

	if p.ReportData == nil {
		return bad("no report data is expected")
	}
	if p.LaunchBinding == nil {
		return bad("no config id (launch binding) is expected")
	}
	for _, t := range p.Tolerate {
		if !t.Known() {
			return bad("unknown tolerance %q", t)
		}
	}
	return nil
}

func checkIdentity(id evidence.CodeIdentity) error {
	if len(id.Measurements) == 0 && id.Signer == nil {
		return fmt.Errorf("neither a measurement nor a signer")
	}
	for _, m := range id.Measurements {
		if m.IsZero() {
			return fmt.Errorf("an all-zero measurement")
		}
	}
	s := id.Signer
	if s == nil {
		return nil
	}
	if s.MRSigner.IsZero() {
		return fmt.Errorf("an all-zero signer")
	}

	if s.SVN != nil && (s.SVNMin != nil || s.SVNMax != nil) {
		return fmt.Errorf("both an exact version and a range")
	}
	if s.SVNMin != nil && s.SVNMax != nil && *s.SVNMin > *s.SVNMax {
		return fmt.Errorf("an empty range of versions, %d to %d", *s.SVNMin, *s.SVNMax)
	}
	return nil
}

func (p Policy) tolerates(t evidence.Tolerance) bool { return slices.Contains(p.Tolerate, t) }

func judgeSimulation(p Policy, c evidence.Claims) evidence.Finding {
	f := evidence.Finding{
		Rule:     ruleSimulation,
		Claim:    "platform",
		Expected: "hardware",
		Actual:   "hardware",
		OK:       true,
	}
	roots := p.simulationRoots()
	if len(roots) > 0 {
		f.Expected = "hardware, or SIMULATED under the root " + strings.Join(roots, " or ")
	}
	if !c.Simulated {
		return f
	}

	f.Actual = fmt.Sprintf("SIMULATED (root %s)", c.Root)
	f.OK = p.tolerates(evidence.SimulationUnder(c.Root))
	switch {
	case len(roots) > 0:
		f.Mend = "run it on the platform that was meant; only if you trust this root as well, tolerate it by its digest"
	case p.tolerates(evidence.Simulation):
		f.Mend = "a bare `simulation` names no root: write `simulation:SHA256` with the root that you gave to `cupel cas attest --trust-simulation`" +
			" (write the template anew with `cupel template --simulation`, then `cupel session create … --simulation --update`)"
	default:
		f.Mend = "run on hardware, or tolerate this simulated platform on purpose (`cupel template --simulation`)"
	}
	return f
}

// simulationRoots lists the digests of the simulated roots that p tolerates.
func (p Policy) simulationRoots() (roots []string) {
	for _, t := range p.Tolerate {
		if root, ok := t.SimulationRoot(); ok && t == evidence.SimulationUnder(root) {
			roots = append(roots, root.String())
		}
	}
	return roots
}

// judgeDebug accepts debug mode where it is tolerated by name, and of a
// simulated platform whose root is: that has no other mode, and hides nothing
// from its host in any.
func judgeDebug(p Policy, c evidence.Claims) evidence.Finding {
	f := evidence.Finding{
		Rule:     ruleDebug,
		Claim:    "debug mode",
		Expected: "off",
		Actual:   "off",
		OK:       true,
	}

	tolerated := p.tolerates(evidence.DebugMode) || c.Simulated && p.tolerates(evidence.SimulationUnder(c.Root))
	if tolerated {
		f.Expected = "off or on"
	}

	if c.Debug {
		f.Actual = "on: whoever runs it can read its memory"
		f.OK = tolerated
		f.Mend = "run a production build, or tolerate debug-mode on purpose"
	}
	return f
}

// judgeIdentity accepts the claims that one of the identities names. With a
// single identity the finding tells which part of it failed.
func judgeIdentity(p Policy, c evidence.Claims) evidence.Finding {
	f := evidence.Finding{Rule: problem.RuleMeasurement, Claim: "measurement", Actual: c.Measurement.String()}
	var wants []string
	for _, id := range p.Identities {
		part := judgeOne(id, c)
		if part.OK {
			return part
		}
		if len(p.Identities) == 1 {
			part.Mend = identityMend
			return part
		}

		wants = append(wants, id.String())
	}

	f.Claim = "code identity"
	f.Actual = fmt.Sprintf("measurement %s, signer %s, product %d, version %d", c.Measurement, c.Signer, c.ProductID, c.SVN)
	f.Expected = strings.Join(wants, "; or ")
	f.Mend = identityMend
	return f
}

const identityMend = "run the code that is expected, or, if you can vouch for this one, add its measurement to the expectation"

func judgeOne(id evidence.CodeIdentity, c evidence.Claims) evidence.Finding {
	f := evidence.Finding{
		Rule:     problem.RuleMeasurement,
		Claim:    "measurement",
		Actual:   c.Measurement.String(),
		Expected: evidence.AnyOf(id.Measurements),
		OK:       true,
	}

	if len(id.Measurements) > 0 && !slices.Contains(id.Measurements, c.Measurement) {
		f.OK = false
		return f
	}
	s := id.Signer
	if s == nil {
		return f
	}

	if len(id.Measurements) == 0 || c.Signer != s.MRSigner {
		f = evidence.Finding{
			Rule:     ruleSigner,
			Claim:    "signer",
			Actual:   c.Signer.String(),
			Expected: s.MRSigner.String(),
			OK:       c.Signer == s.MRSigner,
		}
	}
	if f.OK && c.ProductID != s.ProductID {
		f = evidence.Finding{
			Rule:     ruleProductID,
			Claim:    "product id",
			Actual:   fmt.Sprint(c.ProductID),
			Expected: fmt.Sprint(s.ProductID),
		}
	}
	if f.OK && !acceptsVersion(s, c.SVN) {
		f = evidence.Finding{
			Rule:     ruleSVN,
			Claim:    "security version",
			Actual:   fmt.Sprint(c.SVN),
			Expected: s.Versions(),
		}
	}
	return f
}

func acceptsVersion(s *evidence.Signer, svn uint16) bool {
	return (s.SVN == nil || svn == *s.SVN) && (s.SVNMin == nil || svn >= *s.SVNMin) && (s.SVNMax == nil || svn <= *s.SVNMax)
}

func judgeLaunchBinding(p Policy, c evidence.Claims) evidence.Finding {
	return evidence.Finding{
		Rule:     problem.RuleConfigID,
		Claim:    "launch binding (config id)",
		Expected: p.LaunchBinding.String(),
		Actual:   c.LaunchBinding.String(),
		OK:       c.LaunchBinding == *p.LaunchBinding,
		Mend:     "launch it for this very CAS, session and service",
	}
}

func judgeReportData(p Policy, c evidence.Claims) evidence.Finding {
	return evidence.Finding{
		Rule:     ruleReportData,
		Claim:    "report data",
		Expected: p.ReportData.String(),
		Actual:   c.ReportData.String(),
		OK:       c.ReportData == *p.ReportData,
		Mend:     "make the evidence for this very connection: it may have been replayed, or relayed from elsewhere",
	}
}
