package fieldhash_test

import (
	"crypto/sha256"
	"testing"

	"cupel.dev/cupel/internal/trusted/fieldhash"
)

// TestFields holds the form of what is hashed, spelt out: names of what is stored depend
// on it.
func TestFields(t *testing.T) {
	want := sha256.Sum256([]byte("\x00\x00\x00\x00\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x00\x00\x00\x01c"))
	h := fieldhash.New()
	h.Text("ab")
	h.Bytes(nil)
	h.Number(0x102)
	h.Bytes([]byte("c"))
	if got := h.Sum(); got != want {
		t.Errorf("got %x, want %x", got, want)
	}

	one, other := fieldhash.Of([]byte("ab"), []byte("c")), fieldhash.Of([]byte("a"), []byte("bc"))
	if one == other {
		t.Error("a border between fields can be moved")
	}
}

// TestOf: it is the hash of its fields, and leaves the heap alone: every release has it
// computed.
func TestOf(t *testing.T) {
	a, b := []byte("ab"), []byte("c")
	h := fieldhash.New()
	h.Bytes(a)
	h.Bytes(b)
	if got := fieldhash.Of(a, b); got != h.Sum() {
		t.Errorf("got %x", got)
	}
	if n := testing.AllocsPerRun(100, func() { fieldhash.Of(a, b) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
