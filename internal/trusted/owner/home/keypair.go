package home

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/selfsigned"
)

// KeyPair is the owner's key pair: what makes them the CREATOR of sessions and
// the owner of apps. Of the certificate only the key counts.
type KeyPair struct {
	Certificate tls.Certificate
	KeyHash     ident.KeyHash
	PEM         []byte // the certificate
}

// noEnd is how RFC 5280 (4.1.2.5) writes that a certificate does not end.
var noEnd = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// KeyPair returns the owner's key pair and makes it on first use. In a folder that
// was used under a key that is gone it makes none: nobody would notice that they are
// another owner from then on.
func (d *Dir) KeyPair(ctx context.Context, now func() time.Time) (*KeyPair, error) {
	id, err := d.readKeyPair()
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}

	err = d.locked(ctx, func() error {
		if id, err = d.readKeyPair(); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err // another command was faster
		}
		if id, err = d.makeKeyPair(now()); err != nil {
			return err
		}
		return nil
	})

	return id, err
}

// makeKeyPair writes key, then certificate; a key without certificate, from a
// crash between the two, is kept.
func (d *Dir) makeKeyPair(now time.Time) (*KeyPair, error) {
	key, err := d.readKey()
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.neverUsed(); err != nil {
			return nil, err
		}
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, fmt.Errorf("make the owner's key: %w", err)
		}

		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("make the owner's key: %w", err)
		}

		if err := d.write(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}

	certificate, err := selfsigned.Certificate{
		Name:      "cupel owner",
		NotBefore: now.Add(-time.Hour),
		NotAfter:  noEnd,
		Usages:    []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}.Sign(key)
	if err != nil {
		return nil, err
	}

	if err := d.write(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})); err != nil {
		return nil, err
	}

	return d.readKeyPair()
}

// underKey are the files that say nothing without the key under which they were made. Pins
// of a CAS are none of them: whoever has them can lay them into a new folder.
var underKey = []string{certFile, sessionsFile, appsFile}

// neverUsed refuses a folder in which there was a key.
func (d *Dir) neverUsed() error {
	var left []string
	for _, name := range underKey {
		path := filepath.Join(d.path, name)
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return problem.New(problem.Invalid, problem.RuleOwnerIdentity, "%w", err)
		}
	}

	if len(left) == 0 {
		return nil
	}

	return problem.New(problem.Invalid, ruleIdentityLost, "%s is gone, and what was made with it is there: %s", filepath.Join(d.path, keyFile), strings.Join(left, ", ")).
		Want("the key that your sessions, grants and apps belong to").
		Fix("put %s back from your back-up: with another key none of them is yours; to begin anew without them, move these files away", keyFile)
}

func (d *Dir) readKey() (*ecdsa.PrivateKey, error) {
	path := filepath.Join(d.path, keyFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, problem.New(problem.Invalid, problem.RuleOwnerIdentity, "%w", err)
	}

	if info.Mode().Perm()&0o077 != 0 {
		return nil, problem.New(problem.Denied, problem.RuleOwnerIdentity, "others may read %s", path).
			Fix("chmod 600 %s, and make a new key if somebody else had access", path)
	}

	b, err := atomicfile.Read(path)
	if err != nil {
		return nil, problem.New(problem.Invalid, problem.RuleOwnerIdentity, "%w", err)
	}

	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, damaged(path)
	}

	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, damaged(path)
	}

	return key, nil
}

func damaged(path string) *problem.Error {
	return problem.New(problem.Invalid, problem.RuleOwnerIdentity, "%s is damaged", path).
		Fix("put it back from a backup: with another key you are not the creator of your sessions; to begin anew, move it away, and beside it %s", strings.Join(underKey, ", "))
}

// readKeyPair returns an error that wraps fs.ErrNotExist if either file is missing.
func (d *Dir) readKeyPair() (*KeyPair, error) {
	key, err := d.readKey()
	if err != nil {
		return nil, err
	}

	path := filepath.Join(d.path, certFile)
	b, err := atomicfile.Read(path)
	if err != nil {
		return nil, problem.New(problem.Invalid, problem.RuleOwnerIdentity, "%w", err)
	}

	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, damagedCertificate(path)
	}

	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, damagedCertificate(path)
	}

	return &KeyPair{
		Certificate: tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert},
		KeyHash:     ident.HashCertKey(cert), PEM: pem.EncodeToMemory(block),
	}, nil
}

func damagedCertificate(path string) *problem.Error {
	return problem.New(problem.Invalid, problem.RuleOwnerIdentity, "%s is damaged, or not of the key beside it", path).
		Fix("remove %s: it is made again from the key", path)
}
