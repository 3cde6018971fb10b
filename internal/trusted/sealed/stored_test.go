package sealed

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"cupel.dev/cupel/api/ident"
)

// TestStoredTag: who has no key tells a snapshot from one that a disk changed.
func TestStoredTag(t *testing.T) {
	old, oldTag, _ := version1Snapshot(t)
	written, tag := seal(t, testKey, testID, 3, minChunk, random(2*minChunk+5))
	fails := errors.New("the disk fails")
	for _, c := range []struct {
		name string
		b    []byte
		want ident.Digest
	}{
		{"version 2", written, tag},
		{"version 1", old, oldTag},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := StoredTag(bytes.NewReader(c.b)); err != nil || got != c.want {
				t.Errorf("%s, %v; want %s", got, err, c.want)
			}
			for n := 0; n < len(c.b); n += 13 {
				if got, err := StoredTag(bytes.NewReader(c.b[:n])); err != nil || got == c.want {
					t.Fatalf("its first %d bytes: %s, %v", n, got, err)
				}
			}
			if got, err := StoredTag(bytes.NewReader(append(bytes.Clone(c.b), 0))); err != nil || got == c.want {
				t.Errorf("with a byte more: %s, %v", got, err)
			}
			for n := range headerSize + 40 {
				if _, err := StoredTag(io.MultiReader(bytes.NewReader(c.b[:n]), iotest.ErrReader(fails))); !errors.Is(err, fails) {
					t.Fatalf("a disk that fails after %d bytes: %v", n, err)
				}
			}
		})
	}
	for i := 0; i < len(written); i += 13 {
		flipped := bytes.Clone(written)
		flipped[i] ^= 1
		if got, err := StoredTag(bytes.NewReader(flipped)); err != nil || got == tag {
			t.Fatalf("byte %d flipped: %s, %v", i, got, err)
		}
	}
}
