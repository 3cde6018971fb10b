package dcap_test

import (
	"crypto/x509"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
)

func BenchmarkVerify(b *testing.B) {
	p := simulated(b)
	ev, err := p.Quote(simtee.Launch{}, evidence.Data64{})
	if err != nil {
		b.Fatal(err)
	}
	fresh := func(b *testing.B) *dcap.Verifier {
		v, err := dcap.New(dcap.Roots{Simulation: []*x509.Certificate{p.Root()}})
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
	now := time.Now()
	b.Run("cached", func(b *testing.B) {
		v := fresh(b)
		for b.Loop() {
			if _, err := v.Verify(ev, now); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("uncached", func(b *testing.B) {
		for b.Loop() {
			if _, err := fresh(b).Verify(ev, now); err != nil {
				b.Fatal(err)
			}
		}
	})
}
