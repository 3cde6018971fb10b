package dcap

import (
	"crypto/x509"
	_ "embed" // IntelSGXRootCA.der
	"errors"
)

//go:embed roots/IntelSGXRootCA.der
var intelRootDER []byte

// IntelRoot returns Intel's SGX Root CA (SHA-256 of the DER form
// 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3).
func IntelRoot() *x509.Certificate {
	c, err := x509.ParseCertificate(intelRootDER)
	if err != nil {
		panic("dcap: embedded root: " + err.Error()) // our own bytes, held by a test
	}
	return c
}

// checkRoot holds a root to what every chain is held to.
func checkRoot(c *x509.Certificate) error {
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 || c.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return errors.New("not an authority for certificates and revocation lists")
	}
	if _, err := certKey(c); err != nil {
		return err
	}
	return c.CheckSignatureFrom(c)
}
