package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// ownerDir is the owner's folder (--config): the key pair that sessions belong
// to, and what was learned about each CAS. Several commands may use it at once:
// changes are made under a lock and replace files as a whole.
type ownerDir struct {
	path string
	now  func() time.Time
}

func (g *globals) ownerDir() ownerDir { return ownerDir{g.config, g.now} }

const (
	identityFile = "identity.pem" // private key and certificate, so that they can't part
	casFile      = "cas.json"
	lockFile     = ".lock"
)

// identity returns the owner's TLS key pair, made on first use. Only its key
// counts: it is who a session's CREATOR is.
func (d ownerDir) identity() (tls.Certificate, error) {
	name := filepath.Join(d.path, identityFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.locked(func() error { return d.makeIdentity(name) }); err != nil {
			return tls.Certificate{}, err
		}
		b, err = os.ReadFile(name)
	}
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("owner's identity: %w", err)
	}
	cert, err := tls.X509KeyPair(b, b)
	if err != nil {
		return tls.Certificate{}, problem.New(problem.Invalid, "owner_identity", "%s: %w", name, err).
			Fix("put the file back from your backup: sessions belong to the key in it")
	}
	return cert, nil
}

func (d ownerDir) makeIdentity(name string) error {
	if _, err := os.Stat(name); err == nil {
		return nil // another process was first
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "cupel owner"},
		NotBefore: d.now().Add(-time.Hour), NotAfter: d.now().AddDate(50, 0, 0), // only the key counts
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
	return replaceFile(name, b)
}

// casBook is what the owner remembers about CASes.
type casBook struct {
	Version int                  `json:"version"`
	Default string               `json:"default,omitempty"` // the one attested last
	CAS     map[string]casRecord `json:"cas"`               // by HOST:PORT
}

// casRecord is one of them.
type casRecord struct {
	Pin             client.Pin        `json:"pin"`
	AttestedAt      time.Time         `json:"attested_at"`
	Measurement     ident.Measurement `json:"measurement"`
	Signer          ident.Measurement `json:"signer"`
	Simulated       bool              `json:"simulated"`
	Root            ident.Digest      `json:"root"`
	TrustSimulation []ident.Digest    `json:"trust_simulation,omitempty"` // what the owner opted in to
}

const casBookVersion = 1

func (d ownerDir) casBook() (casBook, error) {
	book := casBook{Version: casBookVersion, CAS: map[string]casRecord{}}
	name := filepath.Join(d.path, casFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return book, nil
	}
	if err != nil {
		return book, fmt.Errorf("known CASes: %w", err)
	}
	if err := json.Unmarshal(b, &book); err != nil || book.CAS == nil {
		return book, problem.New(problem.Invalid, "owner_config", "%s: %v", name, err).Fix("mend or remove the file; removing it forgets every CAS's pin and audit head")
	}
	if book.Version != casBookVersion {
		return book, problem.New(problem.Invalid, "owner_config", "%s has version %d", name, book.Version).Want("%d", casBookVersion).Fix("use the cupel that wrote it, or a newer one")
	}
	return book, nil
}

// changeCAS changes what is remembered.
func (d ownerDir) changeCAS(change func(*casBook)) error {
	return d.locked(func() error {
		book, err := d.casBook()
		if err != nil {
			return err
		}
		change(&book)
		b, err := json.MarshalIndent(book, "", "  ")
		if err != nil {
			return err
		}
		return replaceFile(filepath.Join(d.path, casFile), append(b, '\n'))
	})
}

// locked runs f while no other process changes the folder.
func (d ownerDir) locked(f func() error) error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return problem.New(problem.Invalid, "owner_config", "owner's folder: %w", err).Fix("choose a folder that you can write to: --config DIR")
	}
	lock, err := os.OpenFile(filepath.Join(d.path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return problem.New(problem.Invalid, "owner_config", "owner's folder: %w", err).Fix("choose a folder that you can write to: --config DIR")
	}
	defer lock.Close() //nolint:errcheck // closing frees the lock; nothing was written
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lock owner's folder: %w", err)
	}
	return f()
}

// replaceFile writes a private file so that its old or its new content is there,
// whatever happens.
func replaceFile(name string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", name, err)
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// patience is how long owners' commands wait for a CAS that restarts.
const patience = 15 * time.Second

// casClient returns a client of an attested CAS: the one at addr, or else the one
// attested last.
func (g *globals) casClient(addr string) (*client.Client, casRecord, error) {
	d := g.ownerDir()
	book, err := d.casBook()
	if err != nil {
		return nil, casRecord{}, err
	}
	if addr == "" {
		addr = book.Default
	}
	if addr == "" {
		return nil, casRecord{}, problem.New(problem.Unauthenticated, "cas_not_attested", "no CAS was attested yet").Fix("run: cupel cas attest ADDRESS")
	}
	c, err := g.dialCAS(addr, func(host string) *client.Pin {
		if r, ok := book.CAS[host]; ok {
			return &r.Pin
		}
		return nil
	})
	if err != nil {
		return nil, casRecord{}, err
	}
	return c, book.CAS[c.Address()], nil
}

// dialCAS returns a client with the owner's identity that keeps what it learns.
func (g *globals) dialCAS(addr string, pin func(host string) *client.Pin) (*client.Client, error) {
	d := g.ownerDir()
	cert, err := d.identity()
	if err != nil {
		return nil, err
	}
	host, err := client.Address(addr)
	if err != nil {
		return nil, err
	}
	return client.New(host, client.Options{
		Certificate: &cert, Pin: pin(host), Patience: patience, Now: g.now,
		Save: func(p client.Pin) error {
			return d.changeCAS(func(book *casBook) {
				r, known := book.CAS[host]
				if known && r.Pin.Identity == p.Identity && p.Head.Seq > r.Pin.Head.Seq {
					r.Pin = p
					book.CAS[host] = r
				}
			})
		},
	})
}
