package keyfile

import (
	"bytes"
	"path/filepath"
	"testing"
)

// TestVariantShowsPlaintext: a search for a row can find it, and the CAS reads it.
func TestVariantShowsPlaintext(t *testing.T) {
	s, err := Create(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	row := []byte("a row with a secret")
	sealed, err := s.Seal("id", 1, row)
	if err != nil || !bytes.Contains(sealed, row) {
		t.Errorf("the row is hidden: %v", err)
	}
	if got, err := s.Open("id", 1, sealed); err != nil || !bytes.Equal(got, row) {
		t.Errorf("read %q: %v", got, err)
	}
}
