package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/selfsigned"
	"cupel.dev/cupel/internal/wording"
)

// keyPair reads NAME.key and NAME.crt of the state folder and makes both on first use.
// Who reads the key speaks as that name, so that it is never replaced. A certificate
// that is gone or damaged is made anew for its key, which renewed tells.
func (l layout) keyPair(name string, now time.Time) (pair tls.Certificate, renewed bool, err error) {
	keyFile, certFile := l.path(name+".key"), l.path(name+".crt")
	if pair, err = loadPair(certFile, keyFile); err == nil {
		return pair, false, nil
	}

	key, err := readKey(keyFile)
	switch {
	case err == nil: // the certificate is to blame
		renewed = true
		if exists(certFile) {
			if err := l.putAside(name + ".crt"); err != nil {
				return pair, false, err
			}
		}
	case errors.Is(err, fs.ErrNotExist) && !exists(certFile) && !l.served(): // the first use
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return pair, false, fmt.Errorf("make %s key: %w", name, err)
		}
	default:
		return pair, false, problem.New(problem.Invalid, problem.RuleStateDamaged, "%s: %w", keyFile, err).
			Want("the private key of %s", certFile).
			Fix("put the file back from a backup. Without one: cupel down, remove %s, %s and %s, cupel up; both are made anew, and %s",
				wording.ShellWord(keyFile), wording.ShellWord(certFile), wording.ShellWord(l.path(portsFile)), anotherKey[name])
	}

	if err := l.writePair(name, key, now, renewed); err != nil {
		return pair, false, err
	}
	pair, err = loadPair(certFile, keyFile)
	return pair, renewed, err
}

// anotherKey is what it means for owners that a key is another one, and anotherCert that
// only its certificate is.
var (
	anotherKey = map[string]string{
		"operator": "for owners this is another operator, whom they have to trust and deploy with once more",
		"manager":  anotherCert["manager"],
	}
	anotherCert = map[string]string{
		"operator": "Owners see no difference",
		"manager":  "Owners who pinned manager.crt see another certificate (provider_certificate)",
	}
)

// loadPair reads a certificate and its key.
func loadPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := atomicfile.Read(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := atomicfile.Read(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// readKey reads a private key; an error never quotes what is in the file.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	b, err := atomicfile.Read(path)
	if err != nil {
		return nil, err
	}

	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("it holds no key in PEM")
	}

	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("it holds no ECDSA key in PKCS #8")
	}
	return key, nil
}

// writePair writes a key, unless it is there, and a certificate for it.
func (l layout) writePair(name string, key *ecdsa.PrivateKey, now time.Time, keyIsThere bool) error {
	der, err := selfsigned.Certificate{
		Name:      "cupel " + name,
		NotBefore: now.Add(-time.Hour),
		NotAfter:  now.AddDate(100, 0, 0),
		Usages:    []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:  []string{"localhost"},
	}.Sign(key)
	if err != nil {
		return err
	}

	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if keyIsThere {
		return atomicfile.Write(l.path(name+".crt"), certificate, 0o644)
	}

	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make %s key: %w", name, err)
	}

	// The certificate last: it says that both are there.
	if err := atomicfile.Write(l.path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600); err != nil {
		return err
	}
	return atomicfile.Write(l.path(name+".crt"), certificate, 0o644)
}

// ownPair is keyPair, which tells of a certificate that was made anew.
func (p *parts) ownPair(name string, now time.Time) (tls.Certificate, error) {
	pair, renewed, err := p.keyPair(name, now)
	if renewed && err == nil {
		message := name + ".crt in the state folder was damaged or gone, and was made anew for the same key. " +
			anotherCert[name] + ". Look at the disk (dmesg)"
		p.log.Warn(message)
		p.incidents.Tell(manager.Incident{Warning: true, Reason: reasonRepaired, Message: message})
	}

	return pair, err
}
