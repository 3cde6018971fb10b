package client

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/url"
	"slices"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/verify/appraise"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Expectation is what a CAS must prove.
type Expectation struct {
	// Identities are the accepted builds; any one suffices. None is an error.
	Identities []evidence.CodeIdentity
	// TrustSimulation names, by the SHA-256 of their DER form, roots of
	// simulated platforms. If any is given, nothing but those platforms is
	// accepted, in their debug mode: a test never passes for the real thing.
	TrustSimulation []ident.Digest
	// Tolerate and IgnoreAdvisories are for the CAS's platform.
	Tolerate         []evidence.Tolerance
	IgnoreAdvisories []string
}

func (e Expectation) roots() dcap.Roots {
	if len(e.TrustSimulation) > 0 {
		return dcap.Roots{SimulationPins: e.TrustSimulation}
	}
	return dcap.Roots{Production: []*x509.Certificate{dcap.IntelRoot()}}
}

func (e Expectation) policy(data evidence.Data64) appraise.Policy {
	p := appraise.Policy{
		Identities:       e.Identities,
		ReportData:       &data,
		LaunchBinding:    new(evidence.Data64), // a CAS is launched without a binding
		Tolerate:         slices.Clone(e.Tolerate),
		IgnoreAdvisories: e.IgnoreAdvisories,
	}

	for _, root := range e.TrustSimulation {
		p.Tolerate = append(p.Tolerate, evidence.SimulationUnder(root))
	}

	return p
}

// Attestation is what Attest verified.
type Attestation struct {
	Pin      Pin               `json:"pin"`
	Claims   evidence.Claims   `json:"claims"`
	Decision evidence.Decision `json:"decision"`
	Time     time.Time         `json:"time"`      // the CAS's clock
	ClockOff time.Duration     `json:"clock_off"` // how far it is from ours
	Since    uint64            `json:"since"`     // audit entry from which the log was verified to continue
	Evidence ident.Digest      `json:"evidence"`  // SHA-256 of the quote, for the record
}

// Attest makes the CAS prove what it is: it sends a fresh nonce, verifies the
// evidence and appraises it, checks that the evidence names the very key that
// the TLS connection ended at, the clocks, the audit head's signature and, if a
// head is known, that the log continues it. Only then is the CAS pinned (and
// CASOptions.Save called). It is the verifier and the relying party of RFC 9334 (sections 4
// and 8) in one.
//
// Errors: invalid with roots; internal with reply (another version); denied with
// cas_identity, cas_clock, or the rule of the check that the evidence or the claims failed,
// whose cause is an *evidence.Refused with all findings. It needs no pin.
func (c *CAS) Attest(ctx context.Context, e Expectation) (*Attestation, error) {
	verifier, err := dcap.New(e.roots())
	if err != nil {
		return nil, problem.New(problem.Invalid, problem.RuleRoots, "%w", err)
	}

	var nonce [32]byte
	_, _ = rand.Read(nonce[:]) // never fails

	var reply owners.Attestation
	var who wire.CASIdentity
	var head owners.SignedHead
	err = c.do(ctx, casCall{
		method:   http.MethodGet,
		path:     owners.PathAttest,
		query:    url.Values{"nonce": {hex.EncodeToString(nonce[:])}},
		out:      &reply,
		identity: &who,
		head:     &head,
		unpinned: true,
	})
	if err != nil {
		return nil, err
	}

	if reply.Version != owners.Version {
		return nil, problem.New(problem.Internal, problem.RuleReply, "attestation of version %d", reply.Version).Want("version %d", owners.Version)
	}

	if err := sameIdentity(reply.IdentityCertificate, who.Hash); err != nil {
		return nil, err
	}

	now := c.opts.Now()
	out := &Attestation{Time: reply.Time, ClockOff: reply.Time.Sub(now), Evidence: ident.Sum(reply.Evidence.Quote)}

	if out.Claims, err = verifier.Verify(reply.Evidence, now); err != nil {
		return nil, err
	}

	if out.Decision, err = appraise.Appraise(e.policy(wire.CASReportData(nonce, who.Hash)), out.Claims); err != nil {
		return nil, err
	}

	if err := out.Decision.Err(); err != nil {
		return nil, err
	}

	if out.ClockOff.Abs() > wire.ClockSkew {
		return nil, problem.New(problem.Denied, problem.RuleCASClock, "the CAS's clock says %s, which is %s off", stamp(reply.Time), problem.Duration(out.ClockOff.Abs().Round(time.Second))).
			Want("at most %s from %s", problem.Duration(wire.ClockSkew), stamp(now)).
			Fix("set the clocks of this machine and of the CAS's right")
	}

	before, _ := c.Pin()
	out.Since = before.Head.Seq
	if err := c.keep(ctx, who, head); err != nil {
		return nil, err
	}

	out.Pin, _ = c.Pin()
	return out, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// sameIdentity holds the certificate in the reply against the connection's.
func sameIdentity(text string, want ident.KeyHash) error {
	b, rest := pem.Decode([]byte(text))
	if b == nil || len(rest) != 0 || b.Type != "CERTIFICATE" {
		return problem.New(problem.Denied, problem.RuleCASIdentity, "the reply holds no identity certificate")
	}

	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return problem.New(problem.Denied, problem.RuleCASIdentity, "identity certificate: %w", err)
	}

	if got := ident.HashCertKey(cert); got != want {
		return problem.New(problem.Denied, problem.RuleCASIdentity, "the reply is of identity key %s", got).
			Want("%s, the key of the TLS connection", want).
			Fix("do not use this connection: somebody sits between you and the CAS")
	}

	return nil
}
