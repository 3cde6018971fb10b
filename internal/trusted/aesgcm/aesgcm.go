// Package aesgcm makes the one cipher by which Cupel seals what others store: AES-256-GCM
// (NIST SP 800-38D).
//
// It keeps no key. Nonces are the caller's: no two texts under one key may have the same. A
// cipher is safe for concurrent use.
package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
)

// New returns the cipher under a key of 32 bytes, with nonces of 12 bytes and tags of 16.
// It returns an error for a key of another length that AES doesn't have.
func New(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
