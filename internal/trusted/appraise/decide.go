package appraise

import (
	"fmt"
	"slices"
	"strings"

	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// Appraise judges c by every rule of p and explains each. The error is about p:
// a policy that leaves out what must be expected, or contradicts itself, judges
// nothing.
func Appraise(p Policy, c attest.Claims) (Decision, error) {
	if err := p.check(); err != nil {
		return Decision{}, err
	}
	d := Decision{Accepted: true}
	for _, rule := range []func(Policy, attest.Claims) Finding{
		judgeSimulation, judgeDebug, judgeIdentity, judgeConfigID, judgeReportData, judgeTCB, judgeAdvisories,
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

// Refused is the cause of the error that a refusing Decision makes; it carries
// all findings for who wants more than the first.
type Refused struct{ Findings []Finding }

func (r *Refused) Error() string {
	var rules []string
	for _, f := range r.Findings {
		if !f.OK {
			rules = append(rules, f.Rule)
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
	return problem.New(problem.Denied, "appraisal", "nothing was appraised")
}

// check refuses policies with an expectation missing.
func (p Policy) check() error {
	bad := func(format string, args ...any) error {
		return problem.New(problem.Invalid, "policy", format, args...).Fix("say what is expected: what is absent is never taken as accepted")
	}
	if len(p.Identities) == 0 {
		return bad("no code identity is accepted")
	}
	for i, id := range p.Identities {
		if err := id.check(); err != nil {
			return bad("code identity %d: %w", i+1, err)
		}
	}
	if p.ReportData == nil {
		return bad("no report data is expected")
	}
	if p.ConfigID == nil {
		return bad("no config id (launch binding) is expected")
	}
	for _, t := range p.Tolerate {
		if !t.Known() {
			return bad("unknown tolerance %q", t)
		}
	}
	return nil
}

func (id Identity) check() error {
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

// Known reports whether t is a tolerance of the language.
func (t Tolerance) Known() bool {
	switch t {
	case DebugMode, Simulation, Hyperthreading, InsecureIGPU, SoftwareHardening, InsecureConfiguration, OutdatedTCB, AEPICLeak:
		return true
	}
	root, ok := t.SimulationRoot()
	return ok && t == SimulationUnder(root)
}

func (p Policy) tolerates(t Tolerance) bool { return slices.Contains(p.Tolerate, t) }

func judgeSimulation(p Policy, c attest.Claims) Finding {
	f := Finding{Rule: "simulation", Claim: "platform", Expected: "hardware", Actual: "hardware", OK: true}
	roots := p.simulationRoots()
	if len(roots) > 0 {
		f.Expected = "hardware, or SIMULATED under the root " + strings.Join(roots, " or ")
	}
	if !c.Simulated {
		return f
	}

	f.Actual = fmt.Sprintf("SIMULATED (root %s)", c.Root)
	f.OK = p.tolerates(SimulationUnder(c.Root))
	switch {
	case len(roots) > 0:
		f.Mend = "run it on the platform that was meant; only if you trust this root as well, tolerate it by its digest"
	case p.tolerates(Simulation):
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
		if root, ok := t.SimulationRoot(); ok && t == SimulationUnder(root) {
			roots = append(roots, root.String())
		}
	}
	return roots
}

// judgeDebug accepts debug mode where it is tolerated by name, and of a
// simulated platform whose root is: that has no other mode, and hides nothing
// from its host in any.
func judgeDebug(p Policy, c attest.Claims) Finding {
	f := Finding{Rule: "debug", Claim: "debug mode", Expected: "off", Actual: "off", OK: true}
	tolerated := p.tolerates(DebugMode) || c.Simulated && p.tolerates(SimulationUnder(c.Root))
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
func judgeIdentity(p Policy, c attest.Claims) Finding {
	f := Finding{Rule: "measurement", Claim: "measurement", Actual: c.Measurement.String()}
	var wants []string
	for _, id := range p.Identities {
		part := id.judge(c)
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

func (id Identity) judge(c attest.Claims) Finding {
	f := Finding{Rule: "measurement", Claim: "measurement", Actual: c.Measurement.String(), Expected: measurements(id.Measurements), OK: true}
	if len(id.Measurements) > 0 && !slices.Contains(id.Measurements, c.Measurement) {
		f.OK = false
		return f
	}
	s := id.Signer
	if s == nil {
		return f
	}
	if len(id.Measurements) == 0 || c.Signer != s.MRSigner {
		f = Finding{Rule: "signer", Claim: "signer", Actual: c.Signer.String(), Expected: s.MRSigner.String(), OK: c.Signer == s.MRSigner}
	}
	if f.OK && c.ProductID != s.ProductID {
		f = Finding{Rule: "product_id", Claim: "product id", Actual: fmt.Sprint(c.ProductID), Expected: fmt.Sprint(s.ProductID)}
	}
	if f.OK && !s.accepts(c.SVN) {
		f = Finding{Rule: "svn", Claim: "security version", Actual: fmt.Sprint(c.SVN), Expected: s.versions()}
	}
	return f
}

func (s *Signer) accepts(svn uint16) bool {
	return (s.SVN == nil || svn == *s.SVN) && (s.SVNMin == nil || svn >= *s.SVNMin) && (s.SVNMax == nil || svn <= *s.SVNMax)
}

func (s *Signer) versions() string {
	switch {
	case s.SVN != nil:
		return fmt.Sprintf("exactly %d", *s.SVN)
	case s.SVNMin != nil && s.SVNMax != nil:
		return fmt.Sprintf("%d to %d", *s.SVNMin, *s.SVNMax)
	case s.SVNMin != nil:
		return fmt.Sprintf("at least %d", *s.SVNMin)
	case s.SVNMax != nil:
		return fmt.Sprintf("at most %d", *s.SVNMax)
	}
	return "any"
}

func (id Identity) String() string {
	var parts []string
	if len(id.Measurements) > 0 {
		parts = append(parts, "measurement "+measurements(id.Measurements))
	}
	if s := id.Signer; s != nil {
		parts = append(parts, fmt.Sprintf("signer %s, product %d, version %s", s.MRSigner, s.ProductID, s.versions()))
	}
	return strings.Join(parts, " and ")
}

func measurements(ms []ident.Measurement) string {
	var out []string
	for _, m := range ms {
		out = append(out, m.String())
	}
	return strings.Join(out, " or ")
}

func judgeConfigID(p Policy, c attest.Claims) Finding {
	return Finding{
		Rule: "config_id", Claim: "launch binding (config id)", Expected: p.ConfigID.String(), Actual: c.ConfigID.String(), OK: c.ConfigID == *p.ConfigID,
		Mend: "launch it for this very CAS, session and service",
	}
}

func judgeReportData(p Policy, c attest.Claims) Finding {
	return Finding{
		Rule: "report_data", Claim: "report data", Expected: p.ReportData.String(), Actual: c.ReportData.String(), OK: c.ReportData == *p.ReportData,
		Mend: "make the evidence for this very connection: it may have been replayed, or relayed from elsewhere",
	}
}
