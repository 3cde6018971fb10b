package aesgcm

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
)

// marker lies in the binary, so that a person can tell such a build.
const marker = "TEST-ONLY BUILD, NOTHING IS ENCRYPTED"

// tagSize is AES-GCM's.
const tagSize = 16

// plaintextAEAD has AES-GCM's shape, but only authenticates: the positive control
// of leak searches, which must find what the product hides.
type plaintextAEAD struct{ key []byte }

// New returns it in the place of the product's cipher.
func New(key []byte) (cipher.AEAD, error) {
	return plaintextAEAD{append([]byte(marker), key...)}, nil
}

func (plaintextAEAD) NonceSize() int { return 12 }
func (plaintextAEAD) Overhead() int  { return tagSize }

func (a plaintextAEAD) tag(nonce, text, data []byte) []byte {
	m := hmac.New(sha256.New, a.key)
	m.Write(nonce)
	m.Write(data)
	m.Write(text)
	return m.Sum(nil)[:tagSize]
}

func (a plaintextAEAD) Seal(dst, nonce, text, data []byte) []byte {
	tag := a.tag(nonce, text, data)
	return append(append(dst, text...), tag...)
}

func (a plaintextAEAD) Open(dst, nonce, sealed, data []byte) ([]byte, error) {
	if len(sealed) < tagSize {
		return nil, errors.New("short text")
	}
	text, tag := sealed[:len(sealed)-tagSize], sealed[len(sealed)-tagSize:]
	if !hmac.Equal(tag, a.tag(nonce, text, data)) {
		return nil, errors.New("message authentication failed")
	}
	return append(dst, text...), nil
}
