package simtee

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // key ids of certificates, as RFC 5280 names them
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// keys is the platform's long-lived state.
type keys struct {
	rootKey, caKey, pckKey, signerKey, attestation *ecdsa.PrivateKey
	root, ca, pck, signer                          *x509.Certificate
}

// stateFile holds all of it, so that it exists as a whole or not at all.
const (
	stateFile    = "platform.json"
	stateVersion = 1
)

// state is keys on disk: PKCS #8 and certificates in DER, base64 by JSON.
type state struct {
	Version     int    `json:"version"`
	Warning     string `json:"warning"`
	RootKey     []byte `json:"root_key"`
	CAKey       []byte `json:"ca_key"`
	PCKKey      []byte `json:"pck_key"`
	SignerKey   []byte `json:"signer_key"`
	Attestation []byte `json:"attestation_key"`
	Root        []byte `json:"root"`
	CA          []byte `json:"ca"`
	PCK         []byte `json:"pck"`
	Signer      []byte `json:"signer"`
}

// openKeys reads dir's keys, or makes and stores them.
func openKeys(dir string, now time.Time) (*keys, error) {
	name := filepath.Join(dir, stateFile)
	k, err := readKeys(name)
	if err == nil {
		return k, nil
	}

	if !errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New(problem.Invalid, problem.RuleStateDamaged, "the simulated platform: %w", err).
			Want("the keys that were written there").
			Fix("put %s back from a backup and look at the disk (dmesg). Without a backup: cupel down --force, remove %s and simulation-root.pem beside its folder, cupel up; then sessions and owners have to trust the new simulated root", name, name)
	}

	made, err := makeKeys(now)
	if err != nil {
		return nil, err
	}
	if err := writeKeys(dir, name, made); err != nil {
		return nil, err
	}
	return readKeys(name) // another process may have been first
}

func readKeys(name string) (*keys, error) {
	b, err := atomicfile.Read(name)
	if err != nil {
		return nil, err
	}

	if len(b) == 0 {
		return nil, fmt.Errorf("%s is empty", name)
	}

	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%s: state version %d, this program knows %d", name, s.Version, stateVersion)
	}
	k := new(keys)
	for _, f := range []struct {
		der []byte
		key **ecdsa.PrivateKey
	}{{s.RootKey, &k.rootKey}, {s.CAKey, &k.caKey}, {s.PCKKey, &k.pckKey}, {s.SignerKey, &k.signerKey}, {s.Attestation, &k.attestation}} {
		parsed, err := x509.ParsePKCS8PrivateKey(f.der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		var ok bool
		if *f.key, ok = parsed.(*ecdsa.PrivateKey); !ok {
			return nil, fmt.Errorf("%s: a key that is not ECDSA", name)
		}
	}

	for _, f := range []struct {
		der  []byte
		cert **x509.Certificate
	}{{s.Root, &k.root}, {s.CA, &k.ca}, {s.PCK, &k.pck}, {s.Signer, &k.signer}} {
		if *f.cert, err = x509.ParseCertificate(f.der); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return k, nil
}

// writeKeys stores k under name unless that exists by now: the link is atomic
// and never replaces.
func writeKeys(dir, name string, k *keys) error {
	s := state{
		Version: stateVersion,
		Warning: "SIMULATED platform: these keys protect nothing",
		Root:    k.root.Raw,
		CA:      k.ca.Raw,
		PCK:     k.pck.Raw,
		Signer:  k.signer.Raw,
	}
	for _, f := range []struct {
		key *ecdsa.PrivateKey
		der *[]byte
	}{{k.rootKey, &s.RootKey}, {k.caKey, &s.CAKey}, {k.pckKey, &s.PCKKey}, {k.signerKey, &s.SignerKey}, {k.attestation, &s.Attestation}} {
		var err error
		if *f.der, err = x509.MarshalPKCS8PrivateKey(f.key); err != nil {
			return err
		}
	}

	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}

	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.Create(name, append(b, '\n'), 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Names of the simulated maker. The ends of the common names are those that the
// verifier knows the roles by.
func subject(name string) pkix.Name {
	return pkix.Name{CommonName: "SIMULATED " + name, Organization: []string{"Cupel SIMULATED platform, not hardware"}}
}

const day = 24 * time.Hour

// makeKeys makes root, PCK CA, PCK and TCB signer, and an attestation key.
func makeKeys(now time.Time) (*keys, error) {
	k := new(keys)
	for _, p := range []**ecdsa.PrivateKey{&k.rootKey, &k.caKey, &k.pckKey, &k.signerKey, &k.attestation} {
		var err error
		if *p, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
	}

	authority := func(name string, below int) *x509.Certificate {
		return &x509.Certificate{
			Subject:        subject(name),
			IsCA:           true,
			MaxPathLen:     below,
			MaxPathLenZero: below == 0,
			KeyUsage:       x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			NotAfter:       now.Add(30 * 365 * day),
		}
	}

	signing := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject:  subject(name),
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment, NotAfter: now.Add(20 * 365 * day),
		}
	}

	ext, err := pckExtension()
	if err != nil {
		return nil, err
	}

	leaf := signing("SGX PCK Certificate")
	leaf.ExtraExtensions = []pkix.Extension{ext}
	root := authority("SGX Root CA", 1)

	for _, step := range []struct {
		template *x509.Certificate
		key      *ecdsa.PrivateKey
		parent   **x509.Certificate
		by       *ecdsa.PrivateKey
		out      **x509.Certificate
	}{
		{root, k.rootKey, &root, k.rootKey, &k.root},
		{authority("SGX PCK Processor CA", 0), k.caKey, &k.root, k.rootKey, &k.ca},
		{leaf, k.pckKey, &k.ca, k.caKey, &k.pck},
		{signing("SGX TCB Signing"), k.signerKey, &k.root, k.rootKey, &k.signer},
	} {
		if *step.out, err = issue(step.template, *step.parent, step.key, step.by, now); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func issue(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 150))
	if err != nil {
		return nil, err
	}

	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	id := sha1.Sum(point) //nolint:gosec // a name, not a protection

	template.SerialNumber = serial
	template.SubjectKeyId = id[:]
	template.NotBefore = now.Add(-day) // clocks of one room differ
	template.BasicConstraintsValid = true
	template.SignatureAlgorithm = x509.ECDSAWithSHA256
	if template == parent {
		template.AuthorityKeyId = id[:]
	}

	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// The platform's kind and its certifying enclave.
var (
	fmspc = []byte("SIMULA")
	pceID = []byte{0, 0}
)

// pckExtension is Intel's extension of PCK certificates, 1.2.840.113741.1.13.1 (PCK
// Certificate and Certificate Revocation List Profile Specification).
func pckExtension() (pkix.Extension, error) {
	oid := asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

	at := func(arcs ...int) asn1.ObjectIdentifier { return append(oid[:len(oid):len(oid)], arcs...) }

	type field struct {
		ID    asn1.ObjectIdentifier
		Value any
	}

	tcb := make([]field, 0, len(cpuSVN)+2)
	for i, svn := range cpuSVN {
		tcb = append(tcb, field{at(2, i+1), int(svn)})
	}
	tcb = append(tcb, field{at(2, 17), pceSVN}, field{at(2, 18), cpuSVN[:]})

	ppid := make([]byte, 16)
	if _, err := rand.Read(ppid); err != nil {
		return pkix.Extension{}, err
	}

	var list []asn1.RawValue
	for _, f := range []field{{at(1), ppid}, {at(2), tcb}, {at(3), pceID}, {at(4), fmspc}, {at(5), asn1.Enumerated(0)}} {
		der, err := asn1.Marshal(f)
		if err != nil {
			return pkix.Extension{}, err
		}
		list = append(list, asn1.RawValue{FullBytes: der})
	}
	der, err := asn1.Marshal(list)

	return pkix.Extension{Id: oid, Value: der}, err
}
