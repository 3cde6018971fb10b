package keyfile

import (
	"crypto/aes"
	"crypto/cipher"
)

// newAEAD is AES-256-GCM (NIST SP 800-38D) under a key of 32 bytes.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
