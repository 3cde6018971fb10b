package sealed

import (
	"bytes"
	"testing"
)

// TestVariantShowsPlaintext: a search for the plaintext can find it, and a reader
// reads it.
func TestVariantShowsPlaintext(t *testing.T) {
	text := random(1000)
	b, tag := seal(t, testKey, testID, 1, minChunk, text)
	if !bytes.Contains(b, text[:32]) {
		t.Error("the snapshot hides its plaintext")
	}
	if got, err := open(b, 1, tag); err != nil || !bytes.Equal(got, text) {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
}
