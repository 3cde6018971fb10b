package aesgcm_test

import (
	"encoding/hex"
	"testing"

	"cupel.dev/cupel/internal/trusted/aesgcm"
)

// TestKnownAnswer is test case 14 of the GCM specification (McGrew and Viega): AES-256, one
// block of zeros under a key and nonce of zeros.
func TestKnownAnswer(t *testing.T) {
	aead, err := aesgcm.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	got := hex.EncodeToString(aead.Seal(nil, make([]byte, 12), make([]byte, 16), nil))
	if want := "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := aesgcm.New(make([]byte, 31)); err == nil {
		t.Error("a key of 31 bytes")
	}
}
