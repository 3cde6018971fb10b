package aesgcm

import (
	"bytes"
	"testing"
)

// TestVariantAuthenticates: what was changed is refused, as by the product's cipher.
func TestVariantAuthenticates(t *testing.T) {
	aead, err := New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	nonce, text := make([]byte, aead.NonceSize()), []byte("a text that can be found")
	sealed := aead.Seal(nil, nonce, text, nil)
	if !bytes.Contains(sealed, text) || len(sealed) != len(text)+aead.Overhead() {
		t.Errorf("sealed: %q", sealed)
	}
	sealed[0]++
	if _, err := aead.Open(nil, nonce, sealed, nil); err == nil {
		t.Error("a changed text opens")
	}
}
