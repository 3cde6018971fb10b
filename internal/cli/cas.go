package cli

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/home"
	"cupel.dev/cupel/internal/version"
)

func newCASCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "cas",
		Short: "Make sure of the CAS, which keeps your secrets",
		Long: `The configuration and attestation service (CAS) keeps your sessions and secrets, and
attests every instance before it gives it any. Make sure of it first.`,
		Example: "  cupel cas attest cas.example.org\n  cupel cas list",
	}
	c.AddCommand(newCASAttestCommand(g), newCASListCommand(g))
	return c
}

type casAttestOptions struct {
	addr            string
	mrenclave       []string
	mrsigner        string
	isvProdID       uint16
	isvSVNMin       uint16
	trustSimulation []string
	tolerate        []string
	ignore          []string
	forget          bool
}

func newCASAttestCommand(g *globals) *cobra.Command {
	var o casAttestOptions
	c := &cobra.Command{
		Use:   "attest [ADDRESS]",
		Short: "Make a CAS prove what it is, and pin its identity",
		Long: `Sends a fresh nonce and verifies the evidence that comes back: signatures,
certificates, revocation, the platform's status, the measured code, and that the
evidence names the key which this very connection ended at. What it finds is
kept in the owner's folder: later commands talk to this identity only, and to a
log that continues the one seen here.

Without --mrenclave or --mrsigner the CAS of this very build is expected. Without
an address it is the operator's: of this machine, or of --provider. Where it is may
be the operator's word; what it is, it has to prove.`,
		Example: `  cupel cas attest cas.example.org
  cupel cas attest 127.0.0.1:8081 --trust-simulation 3f0c…   # a test without a TEE
  cupel cas attest --provider https://provider.example.org`,
		Args: exactArgs("[ADDRESS]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.addr = args[0]
			}

			for _, flag := range []string{"isvprodid", "isvsvn-min"} {
				if err := goesWith(cmd, flag, "--mrsigner", o.mrsigner != ""); err != nil {
					return err
				}
			}

			return runCASAttest(cmd.Context(), g, o)
		},
	}

	f := c.Flags()
	f.StringSliceVar(&o.mrenclave, "mrenclave", nil, "accept this measurement (64 hex digits); repeatable")
	f.StringVar(&o.mrsigner, "mrsigner", "", "accept what this key signed (64 hex digits)")
	f.Uint16Var(&o.isvProdID, "isvprodid", 0, "with --mrsigner: the product id")
	f.Uint16Var(&o.isvSVNMin, "isvsvn-min", 0, "with --mrsigner: the least security version")
	f.StringSliceVar(&o.trustSimulation, "trust-simulation", nil, "accept a SIMULATED platform with this root (SHA-256); protects nothing, for tests")
	f.StringSliceVar(&o.tolerate, "tolerate", nil, "accept this weakness of the CAS's platform, for instance software-hardening-needed")
	f.StringSliceVar(&o.ignore, "ignore-advisory", nil, "accept this open advisory (INTEL-SA-nnnnn)")
	f.BoolVar(&o.forget, "forget", false, "first forget what is pinned for this address: only when you know why the CAS changed")

	return c
}

// advisoryForm is how Intel's advisories are called.
var advisoryForm = regexp.MustCompile(`^(INTEL-SA-[0-9]{5}|\*)$`)

// expectation turns the options into what the CAS must prove.
func (o casAttestOptions) expectation() (client.Expectation, error) {
	var e client.Expectation
	bad := func(flag string, err error) (client.Expectation, error) {
		return e, problem.New(problem.Invalid, problem.RuleUsage, "--%s: %w", flag, err)
	}

	var id evidence.CodeIdentity
	for _, s := range o.mrenclave {
		m, err := ident.ParseMeasurement(s)
		if err != nil {
			return bad("mrenclave", err)
		}
		id.Measurements = append(id.Measurements, m)
	}

	if o.mrsigner != "" {
		m, err := ident.ParseMeasurement(o.mrsigner)
		if err != nil {
			return bad("mrsigner", err)
		}
		id.Signer = &evidence.Signer{MRSigner: m, ProductID: o.isvProdID, SVNMin: &o.isvSVNMin}
	}

	if len(id.Measurements) == 0 && id.Signer == nil {
		own, ok := version.CAS()
		if !ok {
			return e, problem.New(problem.Invalid, ruleNoExpectation, "this build of cupel does not know which CAS to expect").
				Want("--mrenclave or --mrsigner, or a cupel from `make build`").
				Fix("say what you expect: what is not said is never taken as accepted")
		}
		id.Measurements = []ident.Measurement{own}
	}

	e.Identities = []evidence.CodeIdentity{id}
	for _, s := range o.trustSimulation {
		d, err := ident.ParseDigest(s)
		if err != nil {
			return bad("trust-simulation", err)
		}
		e.TrustSimulation = append(e.TrustSimulation, d)
	}

	for _, t := range o.tolerate {
		e.Tolerate = append(e.Tolerate, evidence.Tolerance(t))
	}

	for _, a := range o.ignore {
		if !advisoryForm.MatchString(a) {
			return e, problem.New(problem.Invalid, problem.RuleUsage, "--ignore-advisory %.40q", a).
				Want(`INTEL-SA-nnnnn, or "*" for all`).Fix("take it as a refusal names it, as in --ignore-advisory INTEL-SA-00657")
		}
	}

	e.IgnoreAdvisories = o.ignore
	return e, nil
}

// casAttestReply is the answer of `cas attest -o json`.
type casAttestReply struct {
	Address string `json:"address"`
	*client.Attestation
	Head string `json:"audit_head"` // as `audit verify --since` takes it
}

func runCASAttest(ctx context.Context, g *globals, o casAttestOptions) error {
	host, err := o.address(ctx, g)
	if err != nil {
		return err
	}
	e, err := o.expectation()
	if err != nil {
		return err
	}

	side, err := g.ownerSide(ctx)
	if err != nil {
		return err
	}

	pins, err := side.dir.Pins()
	if err != nil {
		return err
	}

	var pin *home.Pin
	if known, ok := pins[host]; ok && !o.forget {
		pin = &known
	}

	c, err := side.dial(ctx, host, pin)
	if err != nil {
		return err
	}
	defer c.Close()

	a, err := c.Attest(ctx, e)
	if err != nil {
		return err
	}

	next := home.Pin{
		Identity:    a.Pin.Identity,
		Measurement: a.Claims.Measurement,
		Signer:      a.Claims.Signer,
		Head:        a.Pin.Head,
		Attested:    g.now().UTC(),
	}
	if a.Claims.Simulated {
		next.SimulationRoot = &a.Claims.Root
	}

	if err := side.dir.UpdatePins(ctx, func(pins home.Pins) error { pins[host] = next; return nil }); err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(casAttestReply{host, a, owners.EncodeHead(a.Pin.Head)})
	}
	return printAttestation(g, host, a)
}

// address is the CAS's: the one that was named, or else where the manager has its own.
func (o casAttestOptions) address(ctx context.Context, g *globals) (string, error) {
	if o.addr != "" {
		return wholeAddress(o.addr)
	}

	at, err := g.manager(ctx)
	if err != nil && g.provider == "" {
		return "", problem.New(problem.Invalid, problem.RuleUsage, "no address of a CAS, and no manager to ask: %w", err).
			Want("ADDRESS").Fix("see 'cupel cas attest --help'")
	}
	if err != nil {
		return "", err
	}
	return wholeAddress(at.CAS.Owners)
}

func printAttestation(g *globals, host string, a *client.Attestation) error {
	log := fmt.Sprintf("entry %d, %s", a.Pin.Head.Seq, a.Pin.Head.Hash)
	if a.Since > 0 {
		log += fmt.Sprintf("; continues entry %d that was seen before", a.Since)
	}

	return g.table([]string{"VERIFIED", "FOUND"}, [][]string{
		{"address", host},
		{"identity (pinned)", a.Pin.Identity.String()},
		{"measurement", a.Claims.Measurement.String()},
		{"signer", a.Claims.Signer.String()},
		{"platform", platformText(a.Claims.Simulated, a.Claims.Root)},
		{"debug mode", onOff(a.Claims.Debug)},
		{"platform status", statusText(a)},
		{"collateral", "good until " + a.Claims.CollateralExpires.UTC().Format(time.RFC3339)},
		{"clock", problem.Duration(a.ClockOff.Abs().Round(time.Millisecond)) + " off"},
		{"audit log", log},
	})
}

func platformText(simulated bool, root ident.Digest) string {
	if simulated {
		return "SIMULATED, protects nothing (root " + root.String() + ")"
	}
	return "hardware (root " + root.String() + ")"
}

func statusText(a *client.Attestation) string {
	s := fmt.Sprintf("%s as of %s", a.Claims.TCBStatus, a.Claims.TCBDate.UTC().Format(time.DateOnly))
	if len(a.Claims.Advisories) > 0 {
		s += ", open: " + strings.Join(a.Claims.Advisories, " ")
	}
	return s
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func newCASListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the CASes that were attested",
		Long: `Lists the CASes that were attested from here: what each was pinned as, and up to
which entry its audit log is known. Commands that name none use the last one.`,
		Example: "  cupel cas list\n  cupel cas list -o json",
		Args:    exactArgs(),
		RunE:    func(*cobra.Command, []string) error { return runCASList(g) },
	}
}

func runCASList(g *globals) error {
	dir, err := g.ownerDir()
	if err != nil {
		return err
	}
	pins, err := dir.Pins()
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(pins)
	}

	last := lastAttested(pins)
	var rows [][]string
	for _, addr := range sortedKeys(pins) {
		p := pins[addr]
		platform := "hardware"
		mark := ""

		if p.SimulationRoot != nil {
			platform = "SIMULATED"
		}
		if addr == last {
			mark = "used by default"
		}

		rows = append(rows, []string{addr, p.Identity.Short(), platform, p.Attested.Format(time.RFC3339), fmt.Sprint(p.Head.Seq), mark})
	}
	return g.table([]string{"ADDRESS", "IDENTITY", "PLATFORM", "ATTESTED", "LOG", ""}, rows)
}
