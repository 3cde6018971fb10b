//go:build !cupel_plaintext

package keyfile

import (
	"crypto/aes"
	"crypto/cipher"
)

// Encrypts says whether this build encrypts. It is false only in the test-only
// build that serves as the positive control of leak searches.
const Encrypts = true

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
