package selfsigned_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/selfsigned"
)

func TestSign(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	der, err := selfsigned.Certificate{
		Name:      "cupel test",
		NotBefore: now,
		NotAfter:  now.AddDate(100, 0, 0),
		Usages:    []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}.Sign(key)
	if err != nil {
		t.Fatal(err)
	}

	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(c.PublicKey) || c.IsCA || c.Subject.CommonName != "cupel test" || !c.NotBefore.Equal(now) {
		t.Errorf("%+v", c)
	}
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		t.Error(err)
	}
}
