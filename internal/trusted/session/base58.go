package session

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"math/big"
	"strings"

	"cupel.dev/cupel/api/ident"
)

var (
	errNoCertificate = errors.New("not one PEM certificate")
	errNoKeyHash     = errors.New("no key hash")
	errSigningKey    = errors.New("a session signing key, which is known to the SCONE language, but not supported yet")
	errChecksum      = errors.New("a key hash with a typing error: its checksum is wrong")
)

const (
	base58Alphabet    = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	base58HashLength  = 50 // characters of 1 version byte, 32 bytes, 4 bytes of checksum
	versionKeyHash    = 1
	versionSigningKey = 10
)

// parseBase58Hash reads SCONE's Base58Check form of a key hash.
func parseBase58Hash(v string) (ident.KeyHash, error) {
	if len(v) != base58HashLength {
		return ident.KeyHash{}, errNoKeyHash
	}

	n := new(big.Int)
	for _, c := range v {
		digit := strings.IndexRune(base58Alphabet, c)
		if digit < 0 {
			return ident.KeyHash{}, errNoKeyHash
		}

		n.Add(n.Mul(n, big.NewInt(58)), big.NewInt(int64(digit)))
	}
	if n.BitLen() > 37*8 {
		return ident.KeyHash{}, errNoKeyHash
	}

	raw := n.FillBytes(make([]byte, 37))

	sum := sha256.Sum256(raw[:33])
	sum = sha256.Sum256(sum[:])

	switch {
	case subtle.ConstantTimeCompare(sum[:4], raw[33:]) != 1:
		return ident.KeyHash{}, errChecksum
	case raw[0] == versionSigningKey:
		return ident.KeyHash{}, errSigningKey
	case raw[0] != versionKeyHash:
		return ident.KeyHash{}, errNoKeyHash
	}

	return ident.KeyHash(raw[1:33]), nil
}
