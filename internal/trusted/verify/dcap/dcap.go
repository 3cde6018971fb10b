package dcap

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// Roots are the certificates that a chain may end in. A root in Simulation
// makes claims that say so; SimulationPins does the same for roots of which only
// the SHA-256 (over the DER form) is at hand.
type Roots struct {
	Production     []*x509.Certificate
	Simulation     []*x509.Certificate
	SimulationPins []ident.Digest
}

// SimulationMark is in the subject of every certificate of a simulated
// platform. The mark only improves messages and guards against mistakes (New
// refuses it among Production): trust depends on the root alone.
const SimulationMark = "SIMULATED"

// Verifier judges quotes against fixed roots.
type Verifier struct {
	roots []root
	pins  []ident.Digest // of further simulation roots
	memo  *memo
}

type root struct {
	cert      *x509.Certificate
	simulated bool
}

// memoSize bounds how many platforms' verdicts are kept.
const memoSize = 256

// New returns a Verifier that accepts chains to the given roots only. No root
// at all, a root in both lists, and a marked root in Production are errors.
func New(roots Roots) (*Verifier, error) {
	v := &Verifier{memo: newMemo(memoSize), pins: slices.Clone(roots.SimulationPins)}
	for _, c := range roots.Production {
		if strings.Contains(c.Subject.String(), SimulationMark) {
			return nil, fmt.Errorf("production root %q is a simulated platform's", c.Subject)
		}
		v.roots = append(v.roots, root{cert: c})
	}

	for _, c := range roots.Simulation {
		for _, p := range roots.Production {
			if bytes.Equal(c.Raw, p.Raw) || bytes.Equal(c.RawSubjectPublicKeyInfo, p.RawSubjectPublicKeyInfo) {
				return nil, fmt.Errorf("root %q is given for production and for simulation", c.Subject)
			}
		}
		v.roots = append(v.roots, root{cert: c, simulated: true})
	}

	for _, pin := range v.pins {
		if slices.ContainsFunc(roots.Production, func(c *x509.Certificate) bool { return ident.Sum(c.Raw) == pin }) {
			return nil, fmt.Errorf("root %s is given for production and for simulation", pin)
		}
	}

	if len(v.roots)+len(v.pins) == 0 {
		return nil, errors.New("no root certificates: nothing could be verified")
	}
	for _, r := range v.roots {
		if err := checkRoot(r.cert); err != nil {
			return nil, fmt.Errorf("root %q: %w", r.cert.Subject, err)
		}
	}
	return v, nil
}

// Verify checks the evidence as of now. Its errors are *problem.Error: kind
// invalid for bytes that are no quote or no collateral, unauthenticated for
// those that prove nothing. A TCB that is out of date, or revoked, is no error
// but a status among the claims.
func (v *Verifier) Verify(ev evidence.Evidence, now time.Time) (evidence.Claims, error) {
	if ev.Type != evidence.SGX {
		return evidence.Claims{}, malformed(problem.RuleEvidenceType, "evidence of type %q", ev.Type).Want("%q", evidence.SGX)
	}

	q, err := parseQuote(ev.Quote)
	if err != nil {
		return evidence.Claims{}, err
	}

	key := memoKey(q, ev.Endorsements)
	w, ok := v.memo.get(key, now)
	if !ok {
		if w, err = v.judge(q, ev.Endorsements, now); err != nil {
			return evidence.Claims{}, err
		}
		v.memo.put(key, w)
	}

	if !verifyRaw(w.attestationKey, q.signed, q.signature) {
		return evidence.Claims{}, unproven(ruleQuoteSignature, "the quote's signature does not match its body").
			Fix("take a fresh quote; if it happens again the quote was changed on its way")
	}
	return w.claims(q.body), nil
}

// verdict is what the parts of a quote that outlive it proved.
type verdict struct {
	attestationKey *publicKey
	platform       evidence.Claims // all but what the report body says
	judged         time.Time
	expires        time.Time
}

func (w *verdict) claims(b reportBody) evidence.Claims {
	c := w.platform
	c.Advisories = slices.Clone(c.Advisories)
	c.Issued = w.platform.Issued.Clone()

	c.Type = evidence.SGX
	c.Measurement = b.mrenclave
	c.Signer = b.mrsigner
	c.ProductID = b.isvProdID
	c.SVN = b.isvSVN
	c.LaunchBinding = b.configID
	c.ReportData = b.reportData
	c.Debug = b.debug()
	c.SGX = b.sgx()
	return c
}

// judge checks everything but the quote's own signature.
func (v *Verifier) judge(q *quote, endorsements []byte, now time.Time) (*verdict, error) {
	col, err := ParseCollateral(endorsements)
	if err != nil {
		return nil, err
	}

	j := &judgement{now: now, issued: evidence.IssueDates{}}
	pck, err := j.pckChain(v, q.certData)
	if err != nil {
		return nil, err
	}

	if err := j.revocation(col, pck); err != nil {
		return nil, err
	}
	ext, err := parsePCKExtension(pck.leaf)
	if err != nil {
		return nil, err
	}

	if err := q.checkQEReport(pck.leaf); err != nil {
		return nil, err
	}

	platform, err := j.tcb(col, pck.root, ext)
	if err != nil {
		return nil, err
	}
	qe, err := j.qeIdentity(col, pck.root, q.qeReport)
	if err != nil {
		return nil, err
	}

	w := &verdict{attestationKey: q.attestationKey, judged: now, expires: j.expires}
	w.platform = evidence.Claims{
		Simulated:         pck.simulated,
		Root:              ident.Sum(pck.root.Raw),
		FMSPC:             ext.fmspcHex(),
		TCBStatus:         string(converge(platform.status, qe.status)),
		Advisories:        union(platform.advisories, qe.advisories),
		TCBDate:           earlier(platform.date, qe.date),
		CollateralIssued:  j.issued.Oldest(),
		CollateralExpires: j.expires,
		EvaluationNumber:  min(platform.evaluation, qe.evaluation),
		Issued:            j.issued,
	}
	return w, nil
}

// judgement collects the dates of everything that was looked at.
type judgement struct {
	now     time.Time
	expires time.Time // earliest
	issued  evidence.IssueDates
	rootCRL *x509.RevocationList

	simulated bool // the PCK chain ends in a simulation root

	signer     *x509.Certificate // verified, of the chain signerText
	signerText string
}

// dates refuses what is not valid at now and remembers the earliest end.
func (j *judgement) dates(rule problem.Rule, what string, from, until time.Time) error {
	switch {
	case from.IsZero() || until.IsZero() || until.Before(from):
		return malformed(rule, "%s has no usable dates", what)
	case j.now.Before(from):
		return unproven(rule, "%s is valid from %s, and the clock says %s", what, stamp(from), stamp(j.now)).
			Fix("check the clock of the machine that verifies")
	case j.now.After(until):
		return unproven(rule, "%s was valid until %s, and the clock says %s", what, stamp(until), stamp(j.now)).
			Fix("fetch fresh collateral on the machine that attests, or check the clock of the one that verifies")
	}

	if j.expires.IsZero() || until.Before(j.expires) {
		j.expires = until
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// malformed is for bytes that can't be what they should be.
func malformed(rule problem.Rule, format string, args ...any) *problem.Error {
	return problem.New(problem.Invalid, rule, format, args...)
}

// unproven is for well-formed evidence that proves nothing.
func unproven(rule problem.Rule, format string, args ...any) *problem.Error {
	return problem.New(problem.Unauthenticated, rule, format, args...)
}
