package dcap_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
)

// part is a stretch of evidence all of whose bytes have to matter.
type part struct {
	name string
	size int
	// collateral tells it from the quote.
	collateral bool
	// with returns the evidence with one bit of byte i flipped.
	with func(i int) evidence.Evidence
}

func flipped(b []byte, i int) []byte {
	c := slices.Clone(b)
	c[i] ^= 1 << (i % 8)
	return c
}

// parts splits a capture; together they are all of the quote and all of the
// collateral.
func parts(t *testing.T, ev evidence.Evidence) []part {
	t.Helper()
	auth := 436 + 128 + 384 + 64
	cert := auth + 2 + int(binary.LittleEndian.Uint16(ev.Quote[auth:]))
	var out []part
	at := 0
	for _, p := range []struct {
		name string
		end  int
	}{
		{"header", 48}, {"body", 432}, {"signature length", 436}, {"signature", 500}, {"attestation key", 564},
		{"QE report", 948}, {"QE report signature", auth}, {"authentication data", cert}, {"certification data header", cert + 6}, {"PCK chain", len(ev.Quote)},
	} {
		start := at
		out = append(out, part{p.name, p.end - start, false, func(i int) evidence.Evidence {
			return evidence.Evidence{Type: ev.Type, Quote: flipped(ev.Quote, start+i), Endorsements: ev.Endorsements}
		}})
		at = p.end
	}
	col, err := dcap.ParseCollateral(ev.Endorsements)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name  string
		field func(*dcap.Collateral) *string
		hex   bool
	}{
		{"PCK CRL issuer chain", func(c *dcap.Collateral) *string { return &c.PCKCRLIssuerChain }, false},
		{"root CRL", func(c *dcap.Collateral) *string { return &c.RootCACRL }, true},
		{"PCK CRL", func(c *dcap.Collateral) *string { return &c.PCKCRL }, true},
		{"TCB info issuer chain", func(c *dcap.Collateral) *string { return &c.TCBInfoIssuerChain }, false},
		{"TCB info", func(c *dcap.Collateral) *string { return &c.TCBInfo }, false},
		{"TCB info signature", func(c *dcap.Collateral) *string { return &c.TCBInfoSignature }, true},
		{"QE identity issuer chain", func(c *dcap.Collateral) *string { return &c.QEIdentityIssuerChain }, false},
		{"QE identity", func(c *dcap.Collateral) *string { return &c.QEIdentity }, false},
		{"QE identity signature", func(c *dcap.Collateral) *string { return &c.QEIdentitySignature }, true},
	} {
		raw := []byte(*f.field(col))
		if f.hex {
			if raw, err = hex.DecodeString(string(raw)); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, part{f.name, len(raw), true, func(i int) evidence.Evidence {
			changed := *col
			s := string(flipped(raw, i))
			if f.hex {
				s = hex.EncodeToString([]byte(s))
			}
			*f.field(&changed) = s
			b, err := json.Marshal(changed)
			if err != nil {
				panic(err)
			}
			return evidence.Evidence{Type: ev.Type, Quote: ev.Quote, Endorsements: b}
		}})
	}
	return out
}

// TestEveryByteMatters flips a bit in each byte of real evidence. For the second
// capture, whose collateral is of the same make, every eighth byte of that.
func TestEveryByteMatters(t *testing.T) {
	for n, c := range captures(t) {
		for _, p := range parts(t, c.evidence) {
			step := flipStep
			if n > 0 && p.collateral {
				step *= 8
			}
			t.Run(c.name+"/"+p.name, func(t *testing.T) {
				t.Parallel()
				v := intelVerifier(t)
				if _, err := v.Verify(c.evidence, c.want.VerifyAt); err != nil {
					t.Fatalf("unchanged: %v", err)
				}
				for i := 0; i < p.size; i += step {
					_, err := v.Verify(p.with(i), c.want.VerifyAt)
					if err == nil {
						t.Errorf("byte %d of %d flipped and accepted", i, p.size)
						continue
					}
					var refusal *problem.Error
					if !errors.As(err, &refusal) || refusal.Kind != problem.Invalid && refusal.Kind != problem.Unauthenticated {
						t.Fatalf("byte %d: %v", i, err)
					}
				}
			})
		}
	}
}

// TestHexHasOneReading: upper case would be other bytes with the same meaning.
func TestHexHasOneReading(t *testing.T) {
	c := captures(t)[0]
	col, err := dcap.ParseCollateral(c.evidence.Endorsements)
	if err != nil {
		t.Fatal(err)
	}
	col.PCKCRL = hexUpper(col.PCKCRL)
	b, err := json.Marshal(col)
	if err != nil {
		t.Fatal(err)
	}
	c.evidence.Endorsements = b
	if _, err := intelVerifier(t).Verify(c.evidence, c.want.VerifyAt); problem.KindOf(err) != problem.Invalid {
		t.Errorf("upper-case hex: %v", err)
	}
}

func hexUpper(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] >= 'a' && b[i] <= 'f' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}
