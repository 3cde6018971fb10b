package dcap

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// The roles that a certificate may have, told by its common name. Without them
// a key that is certified for one thing could sign another. See roleName.
const (
	rolePCK       = "SGX PCK Certificate"
	roleProcessor = "SGX PCK Processor CA"
	rolePlatform  = "SGX PCK Platform CA"
	roleSigner    = "SGX TCB Signing"
)

// roleName is the whole common name of a certificate in a role, as Intel issues
// it ("Intel SGX PCK Certificate") or, below a simulation root and only there,
// as a simulated platform does ("SIMULATED SGX PCK Certificate").
func roleName(role string, simulated bool) string {
	if simulated {
		return SimulationMark + " " + role
	}
	return "Intel " + role
}

// hasRole reports whether c is certified for role: the name is compared as a
// whole, and a subject with several common names has no role at all.
func (j *judgement) hasRole(c *x509.Certificate, role string) bool {
	names := commonNames(c)
	return len(names) == 1 && names[0] == roleName(role, j.simulated)
}

// commonNames returns all of them, where pkix.Name.CommonName is the last.
func commonNames(c *x509.Certificate) (names []string) {
	for _, n := range c.Subject.Names {
		if text, ok := n.Value.(string); ok && n.Type.Equal(oidCommonName) {
			names = append(names, text)
		}
	}
	return names
}

var oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// pckPath is a verified PCK chain.
type pckPath struct {
	leaf, ca, root *x509.Certificate
	simulated      bool
	issuedCRL      string // name of the date of the CA's revocation list, by what the CA is
}

// pckChain verifies leaf, CA and root as the quote carries them.
func (j *judgement) pckChain(v *Verifier, certData []byte) (*pckPath, error) {
	certs, err := parseChain(string(certData))
	if err != nil {
		return nil, malformed(rulePCKChain, "PCK chain: %w", err)
	}

	if len(certs) != 3 {
		return nil, malformed(rulePCKChain, "PCK chain of %d certificates", len(certs)).Want("leaf, CA and root")
	}
	if err := inOrder(rulePCKChain, "PCK chain", certs); err != nil {
		return nil, err
	}

	p := &pckPath{leaf: certs[0], ca: certs[1], root: certs[2]}
	if p.simulated, err = v.anchor(p.root); err != nil {
		return nil, err
	}
	j.simulated = p.simulated

	switch {
	case j.hasRole(p.ca, roleProcessor):
		p.issuedCRL = issuedProcessorCRL
	case j.hasRole(p.ca, rolePlatform):
		p.issuedCRL = issuedPlatformCRL
	default:
		return nil, unproven(rulePCKChain, "PCK issuer %q", commonNames(p.ca)).
			Want("the common name %q or %q", roleName(roleProcessor, j.simulated), roleName(rolePlatform, j.simulated))
	}
	if !j.hasRole(p.leaf, rolePCK) {
		return nil, unproven(rulePCKChain, "leaf certificate %q", commonNames(p.leaf)).Want("the common name %q", roleName(rolePCK, j.simulated))
	}

	if err := j.path(rulePCKChain, certs); err != nil {
		return nil, err
	}
	return p, nil
}

// anchor finds the trusted root that c is, byte for byte.
func (v *Verifier) anchor(c *x509.Certificate) (simulated bool, err error) {
	for _, r := range v.roots {
		if bytes.Equal(r.cert.Raw, c.Raw) {
			return r.simulated, nil
		}
	}

	if slices.Contains(v.pins, ident.Sum(c.Raw)) {
		if err := checkRoot(c); err != nil {
			return false, malformed(rulePCKChain, "root %q: %w", c.Subject, err)
		}
		return true, nil
	}

	if strings.Contains(c.Subject.String(), SimulationMark) {
		if len(v.pins) > 0 {
			return false, unproven(problem.RuleSimulationRoot, "the evidence comes from a SIMULATED platform with root %s: another root than was named", ident.Sum(c.Raw)).
				Want("%s", wantedRoot(v.pins)).
				Fix("compare the two: this may be another machine than the one that is meant; who means this one names its root instead (cupel-cas: --simulation-root, owners: --trust-simulation)")
		}
		return false, unproven(problem.RuleSimulationRoot, "the evidence comes from a SIMULATED platform with root %s", ident.Sum(c.Raw)).
			Want("%s", wantedRoot(v.pins)).
			Fix("trust that root on purpose if this is a test: whoever verifies has to be given it (cupel-cas: --simulation-root, owners: --trust-simulation)")
	}

	return false, unproven(ruleUnknownRoot, "the chain ends in %q (SHA-256 %s)", c.Subject, ident.Sum(c.Raw)).Want("a root that this verifier was given")
}

// wantedRoot says which roots are believed.
func wantedRoot(pins []ident.Digest) string {
	want := "a hardware maker's root"
	for _, p := range pins {
		want += ", or " + p.String()
	}
	return want
}

// signerChain verifies the two certificates of who signed TCB info or QE
// identity: signer, root.
func (j *judgement) signerChain(rule, ruleRevoked problem.Rule, text string, root *x509.Certificate) (*x509.Certificate, error) {
	if j.signer != nil && text == j.signerText {
		return j.signer, nil // both documents come with the same chain
	}
	certs, err := parseChain(text)
	if err != nil {
		return nil, malformed(rule, "issuer chain: %w", err)
	}
	if len(certs) != 2 {
		return nil, malformed(rule, "issuer chain of %d certificates", len(certs)).Want("signer and root")
	}
	if err := inOrder(rule, "issuer chain", certs); err != nil {
		return nil, err
	}

	if !bytes.Equal(certs[1].Raw, root.Raw) {
		return nil, unproven(rule, "the issuer chain ends in %q", certs[1].Subject).Want("%q, the root of the PCK chain", root.Subject)
	}

	signer := certs[0]
	if signer.IsCA || !j.hasRole(signer, roleSigner) {
		return nil, unproven(rule, "signed by %q", commonNames(signer)).Want("the common name %q", roleName(roleSigner, j.simulated))
	}

	if err := j.path(rule, certs); err != nil {
		return nil, err
	}
	if err := j.notRevoked(ruleRevoked, j.rootCRL, signer); err != nil {
		return nil, err
	}

	j.signer, j.signerText = signer, text
	return signer, nil
}

// inOrder refuses a chain of which each certificate is issued by another one of
// it, and not by the next: these are the right ones, and stand in a wrong order.
func inOrder(rule problem.Rule, what string, certs []*x509.Certificate) error {
	var fromRoot []*x509.Certificate
	rest := slices.Clone(certs)
	for len(rest) > 0 {
		next := slices.IndexFunc(rest, func(c *x509.Certificate) bool {
			issuer := c
			if len(fromRoot) > 0 {
				issuer = fromRoot[len(fromRoot)-1]
			}
			return bytes.Equal(c.RawIssuer, issuer.RawSubject)
		})
		if next < 0 {
			return nil // it is no chain in any order: what is wrong with it, others say
		}

		fromRoot = append(fromRoot, rest[next])
		rest = slices.Delete(rest, next, next+1)
	}

	slices.Reverse(fromRoot)
	if slices.Equal(fromRoot, certs) {
		return nil
	}
	return malformed(rule, "the %s is in another order: %q", what, subjects(certs)).
		Want("each certificate before the one that issued it, the root last: %q", subjects(fromRoot)).
		Fix("hand the certificates on in the order in which the platform gives them")
}

func subjects(certs []*x509.Certificate) (names []string) {
	for _, c := range certs {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// path checks certs[0] up to the last, which is a trusted root (RFC 5280, section 6.1:
// dates, critical extensions; key usage is section 4.2.1.3).
func (j *judgement) path(rule problem.Rule, certs []*x509.Certificate) error {
	for i, c := range certs {
		what := fmt.Sprintf("certificate %q", c.Subject.CommonName)
		if err := j.dates(rule, what, c.NotBefore, c.NotAfter); err != nil {
			return err
		}

		if len(c.UnhandledCriticalExtensions) > 0 {
			return unproven(rule, "%s has an unknown critical extension %v", what, c.UnhandledCriticalExtensions[0])
		}

		if i == len(certs)-1 {
			return nil
		}

		if i == 0 && (c.IsCA || c.KeyUsage&x509.KeyUsageDigitalSignature == 0) {
			return unproven(rule, "%s is not for signing", what)
		}

		if err := issuedBy(c, certs[i+1], i); err != nil {
			return unproven(rule, "%s: %w", what, err)
		}
	}
	return nil
}

// issuedBy checks that parent issued c, below being the number of authorities
// between parent and the end of the chain (RFC 5280: names in section 6.1.3, authority key
// ids in 4.2.1.1, path lengths in 4.2.1.9).
func issuedBy(c, parent *x509.Certificate, below int) error {
	if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("issuer %q is not the next certificate %q", c.Issuer, parent.Subject)
	}
	if len(c.AuthorityKeyId) == 0 || !bytes.Equal(c.AuthorityKeyId, parent.SubjectKeyId) {
		return errors.New("its authority key id is missing or not the next certificate's key id")
	}

	if _, err := certKey(parent); err != nil {
		return err
	}
	if parent.MaxPathLen >= 0 && (parent.MaxPathLen > 0 || parent.MaxPathLenZero) && below > parent.MaxPathLen {
		return fmt.Errorf("%q allows %d authorities below it", parent.Subject, parent.MaxPathLen)
	}

	if c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return fmt.Errorf("signed with %v, not ECDSA with SHA-256", c.SignatureAlgorithm)
	}
	return c.CheckSignatureFrom(parent) // basic constraints, key usage, signature
}

// revocation reads both lists and looks up the PCK chain in them. The root's
// list is kept for the signers of other documents.
func (j *judgement) revocation(col *Collateral, p *pckPath) error {
	var err error
	if j.rootCRL, err = j.crl(rootListKind, col.RootCACRL, p.root); err != nil {
		return err
	}
	j.issued[issuedRootCRL] = j.rootCRL.ThisUpdate

	if err := j.notRevoked(rulePCKCARevoked, j.rootCRL, p.ca); err != nil {
		return err
	}

	issuer := p.ca
	if col.PCKCRLIssuerChain != "" {
		if issuer, err = j.crlIssuer(col.PCKCRLIssuerChain, p); err != nil {
			return err
		}
	}

	list, err := j.crl(pckListKind, col.PCKCRL, issuer)
	if err != nil {
		return err
	}
	j.issued[p.issuedCRL] = list.ThisUpdate
	return j.notRevoked(rulePCKRevoked, list, p.leaf)
}

// crlIssuer verifies the chain that came with the PCK revocation list. It must
// be the very authority that issued the PCK certificate, by name and key: the
// other authority's list (there are two) says nothing about this leaf.
func (j *judgement) crlIssuer(text string, p *pckPath) (*x509.Certificate, error) {
	certs, err := parseChain(text)
	if err != nil {
		return nil, malformed(rulePCKCRLChain, "PCK CRL issuer chain: %w", err)
	}
	if err := inOrder(rulePCKCRLChain, "PCK CRL's issuer chain", certs); err != nil {
		return nil, err
	}

	if len(certs) != 2 || !bytes.Equal(certs[1].Raw, p.root.Raw) {
		return nil, unproven(rulePCKCRLChain, "the PCK CRL's issuer chain is not a CA and the root of the PCK chain")
	}

	ca := certs[0]
	if bytes.Equal(ca.Raw, p.ca.Raw) {
		return p.ca, nil // verified as part of the PCK chain
	}

	if !bytes.Equal(ca.RawSubject, p.ca.RawSubject) || !bytes.Equal(ca.RawSubjectPublicKeyInfo, p.ca.RawSubjectPublicKeyInfo) {
		return nil, unproven(rulePCKCRLChain, "the PCK revocation list is %q's", ca.Subject.CommonName).Want("that of the PCK's issuer, %q", p.ca.Subject.CommonName)
	}

	if err := j.dates(rulePCKCRLChain, fmt.Sprintf("certificate %q", ca.Subject.CommonName), ca.NotBefore, ca.NotAfter); err != nil {
		return nil, err
	}
	if err := issuedBy(ca, p.root, 0); err != nil {
		return nil, unproven(rulePCKCRLChain, "PCK CRL issuer: %w", err)
	}
	return ca, j.notRevoked(rulePCKCARevoked, j.rootCRL, ca)
}

// crl verifies a revocation list of exactly this issuer (RFC 5280, section 6.3.3, for
// complete lists).
func (j *judgement) crl(is listKind, text string, issuer *x509.Certificate) (*x509.RevocationList, error) {
	der, err := decodeHex(text)
	if err != nil {
		return nil, malformed(is.rule, "%s: %w", is.words, err)
	}

	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, malformed(is.rule, "%s: %w", is.words, err)
	}
	if !bytes.Equal(list.Raw, der) {
		return nil, malformed(is.rule, "%s: bytes after its end", is.words)
	}

	if !bytes.Equal(list.RawIssuer, issuer.RawSubject) {
		return nil, unproven(is.rule, "the %s is of another issuer, %q", is.words, list.Issuer).Want("%q", issuer.Subject)
	}
	if len(list.AuthorityKeyId) == 0 || !bytes.Equal(list.AuthorityKeyId, issuer.SubjectKeyId) {
		return nil, unproven(is.rule, "the %s is of authority key %x", is.words, list.AuthorityKeyId).Want("%x", issuer.SubjectKeyId)
	}

	if list.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, unproven(is.rule, "%s: signed with %v", is.words, list.SignatureAlgorithm).Want("ECDSA with SHA-256")
	}
	if err := list.CheckSignatureFrom(issuer); err != nil {
		return nil, unproven(is.rule, "%s: %w", is.words, err)
	}
	if err := checkListExtensions(list); err != nil {
		return nil, unproven(is.rule, "%s: %w", is.words, err)
	}

	return list, j.dates(is.expired, "the "+is.words, list.ThisUpdate, list.NextUpdate)
}

// checkListExtensions refuses what would make a list, or an entry of it, mean
// something else than the plain revocation of a serial number of its issuer:
// partial, indirect and delta lists say so in critical extensions (RFC 5280,
// sections 5.2 and 5.3).
func checkListExtensions(list *x509.RevocationList) error {
	seen := map[string]bool{}
	for _, e := range list.Extensions {
		if e.Critical {
			return fmt.Errorf("unknown critical extension %v", e.Id)
		}
		if seen[e.Id.String()] {
			return fmt.Errorf("extension %v twice", e.Id)
		}
		seen[e.Id.String()] = true
	}

	for _, entry := range list.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			if e.Critical {
				return fmt.Errorf("the entry of serial %x has an unknown critical extension %v", entry.SerialNumber, e.Id)
			}
		}
	}
	return nil
}

func (j *judgement) notRevoked(rule problem.Rule, list *x509.RevocationList, c *x509.Certificate) error {
	for _, e := range list.RevokedCertificateEntries {
		if sameSerial(e.SerialNumber, c.SerialNumber) {
			return unproven(rule, "certificate %q, serial %x, was revoked on %s", c.Subject.CommonName, c.SerialNumber, stamp(e.RevocationTime)).
				Fix("do not use this platform: its maker withdrew its key")
		}
	}
	return nil
}

func sameSerial(a, b *big.Int) bool { return a != nil && b != nil && a.Cmp(b) == 0 }

// parseChain reads concatenated PEM certificates and nothing else: the text
// must be what encoding them gives, so that no byte of it is without meaning.
// A final newline may be missing and one NUL may follow, as quoting enclaves
// write it.
func parseChain(text string) ([]*x509.Certificate, error) {
	text = strings.TrimSuffix(text, "\x00")
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}

	var certs []*x509.Certificate
	var again []byte
	rest := []byte(text)
	for len(rest) > 0 {
		if len(certs) == 4 {
			return nil, errors.New("more than 4 certificates")
		}
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return nil, errors.New("text that is no PEM certificate")
		}

		if b.Type != "CERTIFICATE" || len(b.Headers) != 0 {
			return nil, fmt.Errorf("PEM block %q where a certificate belongs", b.Type)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
		again = append(again, pem.EncodeToMemory(b)...)
	}

	if string(again) != text {
		return nil, errors.New("PEM text with other bytes between or within the certificates")
	}
	return certs, nil
}
