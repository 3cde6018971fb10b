package appraise_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/verify/appraise"
)

var (
	code   = ident.Measurement{1}
	other  = ident.Measurement{2}
	signer = ident.Measurement{3}
	report = evidence.Data64{4}
	config = evidence.Data64{5}
)

func u16(n uint16) *uint16 { return &n }

func policy(change func(*appraise.Policy)) appraise.Policy {
	p := appraise.Policy{Identities: []evidence.CodeIdentity{{Measurements: []ident.Measurement{code}}}, ReportData: &report, LaunchBinding: &config}
	if change != nil {
		change(&p)
	}
	return p
}

func claims(change func(*evidence.Claims)) evidence.Claims {
	c := evidence.Claims{Type: evidence.SGX, Measurement: code, Signer: signer, ProductID: 1, SVN: 5, ReportData: report, LaunchBinding: config, TCBStatus: "UpToDate"}
	if change != nil {
		change(&c)
	}
	return c
}

func tolerate(t ...evidence.Tolerance) func(*appraise.Policy) {
	return func(p *appraise.Policy) { p.Tolerate = t }
}

var simRoot = ident.Digest{0x51}

func simulated(root ident.Digest) func(*evidence.Claims) {
	return func(c *evidence.Claims) { c.Simulated, c.Root = true, root }
}

func status(s string, advisories ...string) func(*evidence.Claims) {
	return func(c *evidence.Claims) { c.TCBStatus, c.Advisories = s, advisories }
}

func identities(ids ...evidence.CodeIdentity) func(*appraise.Policy) {
	return func(p *appraise.Policy) { p.Identities = ids }
}

func signed(change func(*evidence.Signer)) evidence.CodeIdentity {
	s := &evidence.Signer{MRSigner: signer, ProductID: 1}
	if change != nil {
		change(s)
	}
	return evidence.CodeIdentity{Signer: s}
}

func measured(ms ...ident.Measurement) evidence.CodeIdentity {
	return evidence.CodeIdentity{Measurements: ms}
}

// TestRules has an accepted and a refused vector for each rule; refused names
// the first rule that fails.
func TestRules(t *testing.T) {
	for _, tc := range []struct {
		name    string
		policy  func(*appraise.Policy)
		claims  func(*evidence.Claims)
		refused string
	}{
		{name: "all as expected"},
		{name: "another measurement", claims: func(c *evidence.Claims) { c.Measurement = other }, refused: "measurement"},
		{name: "any of the measurements", policy: identities(measured(other, code))},
		{name: "none of the measurements", policy: identities(measured(other, ident.Measurement{9})), refused: "measurement"},
		{name: "any of the identities", policy: identities(measured(other), measured(code))},
		{name: "none of the identities", policy: identities(measured(other), signed(func(s *evidence.Signer) { s.MRSigner = other })), refused: "measurement"},
		{name: "signer", policy: identities(signed(nil))},
		{name: "another signer", policy: identities(signed(nil)), claims: func(c *evidence.Claims) { c.Signer = other }, refused: "signer"},
		{name: "another product", policy: identities(signed(nil)), claims: func(c *evidence.Claims) { c.ProductID = 2 }, refused: "product_id"},
		{name: "exact version", policy: identities(signed(func(s *evidence.Signer) { s.SVN = u16(5) }))},
		{name: "not the exact version", policy: identities(signed(func(s *evidence.Signer) { s.SVN = u16(6) })), refused: "svn"},
		{name: "version in range", policy: identities(signed(func(s *evidence.Signer) { s.SVNMin, s.SVNMax = u16(5), u16(5) }))},
		{name: "version too low", policy: identities(signed(func(s *evidence.Signer) { s.SVNMin = u16(6) })), refused: "svn"},
		{name: "version too high", policy: identities(signed(func(s *evidence.Signer) { s.SVNMax = u16(4) })), refused: "svn"},
		{name: "measurement and signer", policy: identities(evidence.CodeIdentity{Measurements: []ident.Measurement{code}, Signer: signed(nil).Signer})},
		{name: "measurement but not signer", policy: identities(evidence.CodeIdentity{Measurements: []ident.Measurement{code}, Signer: signed(func(s *evidence.Signer) { s.MRSigner = other }).Signer}), refused: "signer"},
		{name: "signer but not measurement", policy: identities(evidence.CodeIdentity{Measurements: []ident.Measurement{other}, Signer: signed(nil).Signer}), refused: "measurement"},
		{name: "another config id", claims: func(c *evidence.Claims) { c.LaunchBinding[63] = 1 }, refused: "config_id"},
		{name: "another report data", claims: func(c *evidence.Claims) { c.ReportData[63] = 1 }, refused: "report_data"},

		{name: "simulated", claims: func(c *evidence.Claims) { c.Simulated = true }, refused: "simulation"},
		{name: "simulated, only debug tolerated", policy: tolerate(evidence.DebugMode), claims: func(c *evidence.Claims) { c.Simulated = true }, refused: "simulation"},
		{name: "simulated, a bare simulation tolerated", policy: tolerate(evidence.Simulation, evidence.DebugMode), claims: simulated(simRoot), refused: "simulation"},
		{name: "simulated and tolerated", policy: tolerate(evidence.SimulationUnder(simRoot)), claims: simulated(simRoot)},
		{name: "simulated under another root", policy: tolerate(evidence.DebugMode, evidence.SimulationUnder(simRoot)), claims: simulated(ident.Digest{8}), refused: "simulation"},
		{name: "one of two roots", policy: tolerate(evidence.SimulationUnder(ident.Digest{8}), evidence.SimulationUnder(simRoot)), claims: simulated(simRoot)},
		{name: "hardware where a root is tolerated", policy: tolerate(evidence.SimulationUnder(simRoot))},
		{name: "debug", claims: func(c *evidence.Claims) { c.Debug = true }, refused: "debug"},
		{name: "debug, only simulation tolerated", policy: tolerate(evidence.Simulation, evidence.SimulationUnder(simRoot)), claims: func(c *evidence.Claims) { c.Debug, c.Root = true, simRoot }, refused: "debug"},
		{name: "debug under a tolerated root", policy: tolerate(evidence.SimulationUnder(simRoot)), claims: func(c *evidence.Claims) { simulated(simRoot)(c); c.Debug = true }},
		{name: "debug under a simulated root that is not tolerated", policy: tolerate(evidence.SimulationUnder(simRoot)), claims: func(c *evidence.Claims) { simulated(ident.Digest{8})(c); c.Debug = true }, refused: "simulation"},
		{name: "debug and tolerated", policy: tolerate(evidence.DebugMode), claims: func(c *evidence.Claims) { c.Debug = true }},

		{name: "hardening", claims: status("SWHardeningNeeded"), refused: "tcb_status"},
		{name: "hardening tolerated", policy: tolerate(evidence.SoftwareHardening), claims: status("SWHardeningNeeded")},
		{name: "configuration", policy: tolerate(evidence.SoftwareHardening), claims: status("ConfigurationNeeded"), refused: "tcb_status"},
		{name: "configuration tolerated", policy: tolerate(evidence.InsecureConfiguration), claims: status("ConfigurationNeeded")},
		{name: "configuration and hardening, one tolerated", policy: tolerate(evidence.InsecureConfiguration), claims: status("ConfigurationAndSWHardeningNeeded"), refused: "tcb_status"},
		{name: "configuration and hardening tolerated", policy: tolerate(evidence.InsecureConfiguration, evidence.SoftwareHardening), claims: status("ConfigurationAndSWHardeningNeeded")},
		{name: "out of date", policy: tolerate(evidence.SoftwareHardening), claims: status("OutOfDate"), refused: "tcb_status"},
		{name: "out of date tolerated", policy: tolerate(evidence.OutdatedTCB), claims: status("OutOfDate")},
		{name: "out of date and configuration, one tolerated", policy: tolerate(evidence.OutdatedTCB), claims: status("OutOfDateConfigurationNeeded"), refused: "tcb_status"},
		{name: "out of date and configuration tolerated", policy: tolerate(evidence.OutdatedTCB, evidence.InsecureConfiguration), claims: status("OutOfDateConfigurationNeeded")},
		{name: "revoked is never tolerated", policy: tolerate(allTolerances()...), claims: status("Revoked"), refused: "tcb_status"},
		{name: "unknown status", policy: tolerate(allTolerances()...), claims: status("Fine"), refused: "tcb_status"},
		{name: "no status", claims: status(""), refused: "tcb_status"},

		{name: "advisory", policy: tolerate(evidence.SoftwareHardening), claims: status("SWHardeningNeeded", "INTEL-SA-00615"), refused: "advisories"},
		{name: "advisory ignored", policy: ignore([]string{"INTEL-SA-00615"}, evidence.SoftwareHardening), claims: status("SWHardeningNeeded", "INTEL-SA-00615")},
		{name: "one of two ignored", policy: ignore([]string{"INTEL-SA-00615"}, evidence.SoftwareHardening), claims: status("SWHardeningNeeded", "INTEL-SA-00615", "INTEL-SA-00334"), refused: "advisories"},
		{name: "ignored without its category", policy: ignore([]string{"INTEL-SA-00615"}), claims: status("SWHardeningNeeded", "INTEL-SA-00615"), refused: "tcb_status"},
		{name: "all ignored without debug mode", policy: ignore([]string{"*"}, evidence.OutdatedTCB), claims: status("OutOfDate", "INTEL-SA-00615"), refused: "advisories"},
		{name: "all ignored with debug mode", policy: ignore([]string{"*"}, evidence.OutdatedTCB, evidence.DebugMode), claims: status("OutOfDate", "INTEL-SA-00615")},
		{name: "advisory of a named weakness", policy: tolerate(evidence.OutdatedTCB, evidence.AEPICLeak), claims: status("OutOfDate", "INTEL-SA-00657")},
		{name: "advisory of another weakness", policy: tolerate(evidence.OutdatedTCB, evidence.InsecureIGPU, evidence.Hyperthreading), claims: status("OutOfDate", "INTEL-SA-00657"), refused: "advisories"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := appraise.Appraise(policy(tc.policy), claims(tc.claims))
			if err != nil {
				t.Fatal(err)
			}
			if tc.refused == "" {
				if !d.Accepted || d.Err() != nil {
					t.Fatalf("refused: %v", d.Err())
				}
				return
			}
			checkRefusal(t, d, problem.Rule(tc.refused))
		})
	}
}

func checkRefusal(t *testing.T, d evidence.Decision, rule problem.Rule) {
	t.Helper()
	p, ok := errors.AsType[*problem.Error](d.Err())
	if !ok || d.Accepted {
		t.Fatalf("accepted, want refused by %s", rule)
	}
	if p.Rule != rule || p.Kind != problem.Denied || p.Expected == "" || p.Actual == "" || p.Mend == "" {
		t.Errorf("refusal %+v, want rule %s, explained", p, rule)
	}
	all, ok := errors.AsType[*evidence.Refused](d.Err())
	if !ok || len(all.Findings) != 7 || !strings.Contains(all.Error(), string(rule)) {
		t.Errorf("findings: %v", all)
	}
	for _, f := range d.Findings {
		if f.OK != (f.Mend == "") || f.Rule == "" || f.Claim == "" || f.Expected == "" {
			t.Errorf("finding %+v", f)
		}
	}
}

func ignore(advisories []string, t ...evidence.Tolerance) func(*appraise.Policy) {
	return func(p *appraise.Policy) { p.IgnoreAdvisories, p.Tolerate = advisories, t }
}

func allTolerances() []evidence.Tolerance {
	return []evidence.Tolerance{
		evidence.DebugMode, evidence.Simulation, evidence.SimulationUnder(simRoot), evidence.Hyperthreading, evidence.InsecureIGPU, evidence.SoftwareHardening,
		evidence.InsecureConfiguration, evidence.OutdatedTCB, evidence.AEPICLeak,
	}
}

// TestPolicies: what is not said is not accepted.
func TestPolicies(t *testing.T) {
	for name, change := range map[string]func(*appraise.Policy){
		"no identity":             identities(),
		"an empty identity":       identities(measured(code), evidence.CodeIdentity{}),
		"a zero measurement":      identities(measured(code, ident.Measurement{})),
		"a zero signer":           identities(signed(func(s *evidence.Signer) { s.MRSigner = ident.Measurement{} })),
		"exact version and range": identities(signed(func(s *evidence.Signer) { s.SVN, s.SVNMin = u16(1), u16(1) })),
		"an empty range":          identities(signed(func(s *evidence.Signer) { s.SVNMin, s.SVNMax = u16(2), u16(1) })),
		"no report data":          func(p *appraise.Policy) { p.ReportData = nil },
		"no config id":            func(p *appraise.Policy) { p.LaunchBinding = nil },
		"an unknown tolerance":    tolerate("everything"),
		"simulation of no root":   tolerate("simulation:"),
		"simulation of half":      tolerate("simulation:" + evidence.Tolerance(strings.Repeat("a", 32))),
		"simulation in capitals":  tolerate("simulation:" + evidence.Tolerance(strings.Repeat("A", 64))),
		"the zero policy":         func(p *appraise.Policy) { *p = appraise.Policy{} },
	} {
		d, err := appraise.Appraise(policy(change), claims(nil))
		if problem.KindOf(err) != problem.Invalid || d.Accepted || d.Err() == nil {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestZeroDecisionIsNoAcceptance(t *testing.T) {
	for _, d := range []evidence.Decision{{}, {Accepted: true}} {
		if d.Err() == nil {
			t.Errorf("%+v accepts", d)
		}
	}
}

func TestKnown(t *testing.T) {
	for _, tol := range allTolerances() {
		if !tol.Known() {
			t.Errorf("%s unknown", tol)
		}
	}
	if slices.ContainsFunc([]evidence.Tolerance{"", "debug", "*"}, evidence.Tolerance.Known) {
		t.Error("a word that is none is known")
	}
}
