package simtee_test

import (
	"crypto/x509"
	"testing"
	"time"

	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/attest/dcap"
)

func TestQuick(t *testing.T) {
	p, err := simtee.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := p.Quote(simtee.Launch{Debug: true}, attest.Data64{1})
	if err != nil {
		t.Fatal(err)
	}
	v, err := dcap.New(dcap.Roots{Simulation: []*x509.Certificate{p.Root()}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Verify(ev, time.Now())
	t.Logf("%+v %v", c, err)
	if err != nil {
		t.Fatal(err)
	}
}
