package audit

import (
	"crypto/ecdsa"
	"crypto/rand"
	"fmt"
	"slices"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/fieldhash"
)

// Chain is a position in the log: the number of the last entry and the hash over
// all entries up to it. The zero Chain is the beginning.
type Chain struct {
	Seq  uint64
	Hash ident.Digest
}

// Append moves the position over e, which must be the next entry.
func (c *Chain) Append(e owners.Entry) error {
	if e.Seq != c.Seq+1 {
		return problem.New(problem.Conflict, ruleAuditLogGap, "entry %d after entry %d", e.Seq, c.Seq).
			Want("entry %d", c.Seq+1)
	}

	c.Hash = hashOf(e, c.Hash)
	c.Seq = e.Seq
	return nil
}

// hashOf covers every field, each with its length, so that no two entries have the
// same encoding.
func hashOf(e owners.Entry, prev ident.Digest) ident.Digest {
	w := fieldhash.New()
	w.Text("cupel/audit-entry/v1")
	w.Bytes(prev[:])
	w.Number(e.Seq)
	w.Number(uint64(e.Time))
	w.Text(string(e.Event))
	w.Bytes(e.Actor[:])
	w.Text(e.Request)
	w.Text(string(e.Session))

	w.Number(uint64(len(e.Detail)))
	for _, k := range sortedKeys(e.Detail) {
		w.Text(k)
		w.Text(e.Detail[k])
	}

	w.Number(uint64(len(e.Rows)))
	for _, r := range e.Rows {
		w.Text(r.ID)
		w.Number(r.Version)
		w.Bytes(r.Hash[:])
	}

	return w.Sum()
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}

	slices.Sort(keys)
	return keys
}

// Sign makes the head of a log that ends at c.
func Sign(key *ecdsa.PrivateKey, c Chain, unixNano int64) (owners.SignedHead, error) {
	h := owners.SignedHead{Seq: c.Seq, Hash: c.Hash, Time: unixNano}

	msg := owners.HeadMessage(h)
	sig, err := ecdsa.SignASN1(rand.Reader, key, msg[:])
	if err != nil {
		return owners.SignedHead{}, fmt.Errorf("sign audit head: %w", err)
	}

	h.Signature = sig
	return h, nil
}

// VerifyHead checks a head's signature by the CAS's identity key.
func VerifyHead(identity *ecdsa.PublicKey, h owners.SignedHead) error {
	msg := owners.HeadMessage(h)
	if !ecdsa.VerifyASN1(identity, msg[:], h.Signature) {
		return problem.New(problem.Denied, ruleAuditHeadSignature, "the signature of audit head %d is not by the CAS's identity key", h.Seq).
			Fix("attest the CAS again; if its identity is the pinned one, its log was tampered with")
	}
	return nil
}

// Verify checks that the log between two heads is unbroken: entries are all
// those after from (the zero head: the beginning) up to to, and lead from the one
// hash to the other. Both signatures are checked.
func Verify(identity *ecdsa.PublicKey, from owners.SignedHead, entries []owners.Entry, to owners.SignedHead) error {
	v, err := NewVerifier(identity, from, to)
	if err != nil {
		return err
	}

	for _, e := range entries {
		if err := v.Append(e); err != nil {
			return err
		}
	}

	return v.Done()
}

// Verifier is Verify for a log that comes in pages. Not safe for concurrent use.
type Verifier struct {
	chain Chain
	to    owners.SignedHead
}

// NewVerifier checks both heads and stands at from.
func NewVerifier(identity *ecdsa.PublicKey, from, to owners.SignedHead) (*Verifier, error) {
	if from.Seq != 0 {
		if err := VerifyHead(identity, from); err != nil {
			return nil, err
		}
	} else {
		from = owners.SignedHead{}
	}

	if err := VerifyHead(identity, to); err != nil {
		return nil, err
	}

	if to.Seq < from.Seq {
		return nil, problem.New(problem.Denied, problem.RuleAuditLogOlder, "the CAS's log ends at entry %d", to.Seq).
			Want("entry %d or later, which this CAS has shown before", from.Seq).
			Fix("do not use this CAS: its state was put back to an earlier one. Ask whoever runs it, and only if the answer satisfies you, attest it anew: cupel cas attest with --forget")
	}

	return &Verifier{chain: Chain{Seq: from.Seq, Hash: from.Hash}, to: to}, nil
}

// Append takes the next entry; entries after the last head are ignored.
func (v *Verifier) Append(e owners.Entry) error {
	if v.chain.Seq >= v.to.Seq {
		return nil
	}
	return v.chain.Append(e)
}

// Position is the number of the last entry that was taken.
func (v *Verifier) Position() uint64 { return v.chain.Seq }

// Done checks that the end was reached and is the signed one.
func (v *Verifier) Done() error {
	switch {
	case v.chain.Seq < v.to.Seq:
		return problem.New(problem.Denied, problem.RuleAuditLogCut, "the log stops at entry %d", v.chain.Seq).
			Want("entries up to %d, as the signed head says", v.to.Seq).
			Fix("do not use this CAS: entries of its log are missing")
	case v.chain.Hash != v.to.Hash:
		return problem.New(problem.Denied, problem.RuleAuditLogForked, "the entries up to %d hash to %s", v.to.Seq, v.chain.Hash).
			Want("%s, as the signed head says", v.to.Hash).
			Fix("do not use this CAS: its log is not the one that it has shown before")
	}
	return nil
}
