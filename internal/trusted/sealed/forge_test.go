package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// version1Snapshot is a snapshot that was written before version 2, of
// generation 3 of testID, with its tag and its plaintext.
func version1Snapshot(t testing.TB) (b []byte, tag ident.Digest, text []byte) {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tag, err := ident.ParseDigest(string(bytes.TrimSpace(read("v1.tag"))))
	if err != nil {
		t.Fatal(err)
	}
	return read("v1.snapshot"), tag, read("v1.tar")
}

// TestVersion1StaysReadable: until its next commit a volume is of the version
// that it was written in.
func TestVersion1StaysReadable(t *testing.T) {
	b, tag, text := version1Snapshot(t)
	got, err := open(b, 3, tag)
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(text), err)
	}

	for i := range b {
		flipped := bytes.Clone(b)
		flipped[i] ^= 1 << (i % 8)
		if _, err := open(flipped, 3, tag); err == nil {
			t.Fatalf("byte %d flipped: accepted", i)
		}
	}
}

// TestForgedCiphertext: who has a volume's key finds other plaintexts under the
// very GCM tags of a snapshot. The tag of version 1 takes them for the same
// snapshot; that of version 2 does not.
func TestForgedCiphertext(t *testing.T) {
	evil := []byte("what never was written here")

	old, oldTag, oldText := version1Snapshot(t)
	b := forge(t, old, 1, 160, evil, 32)
	got, err := open(b, 3, oldTag)
	if err != nil || bytes.Equal(got, oldText) || !bytes.Contains(got, evil) {
		t.Fatalf("the forgery that version 2 is for does not work: %v", err)
	}

	text := random(2*minChunk + 1000)
	written, tag := seal(t, testKey, testID, 3, minChunk, text)
	if _, err := open(written, 3, tag); err != nil {
		t.Fatal(err)
	}
	for _, chunk := range []int{0, 1} {
		b := forge(t, written, chunk, 160, evil, 32)
		got, err := open(b, 3, tag)
		wantRule(t, err, string(RuleForked))
		if len(got) > 2*minChunk {
			t.Errorf("%d bytes came out of a forged snapshot, its last chunk among them", len(got))
		}
	}
}

// TestTagIsOfOneVersion: the tag of one version is none of the other, whatever
// the header says.
func TestTagIsOfOneVersion(t *testing.T) {
	old, oldTag, _ := version1Snapshot(t)
	written, tag := seal(t, testKey, testID, 3, minChunk, random(2*minChunk+1000))

	relabelled := func(b []byte, version uint16) []byte {
		b = bytes.Clone(b)
		binary.BigEndian.PutUint16(b[8:], version)
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		tag  ident.Digest
		rule problem.Rule
	}{
		{"version 1 under the other's tag of its bytes", old, tagOf(version2, old), RuleForked},
		{"version 2 under the other's tag of its bytes", written, tagOf(version1, written), RuleForked},
		{"version 1 said to be 2", relabelled(old, version2), oldTag, RuleTampered},
		{"version 1 said to be 2, with a tag for it", relabelled(old, version2), tagOf(version2, relabelled(old, version2)), RuleTampered},
		{"version 2 said to be 1", relabelled(written, version1), tag, RuleTampered},
		{"version 2 said to be 1, with a tag for it", relabelled(written, version1), tagOf(version1, relabelled(written, version1)), RuleTampered},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := open(c.b, 3, c.tag)
			wantRule(t, err, string(c.rule))
		})
	}
}

// tagOf computes the tag that a snapshot's bytes have in a version.
func tagOf(version uint16, b []byte) ident.Digest {
	t := newTagHash(version, b[:headerSize])
	for b = b[headerSize:]; len(b) > 0; {
		n := frameSize + int(binary.BigEndian.Uint32(b)&^lastChunk) + tagSize
		t.add(b[:n])
		b = b[n:]
	}
	return t.tag()
}

// forge writes evil into the plaintext of a full chunk, so that the chunk's GCM
// tag stays the same: GHASH is a polynomial in a value that the key tells, so
// that the plaintext of one block, spare, can be solved for.
func forge(t *testing.T, snapshot []byte, chunk, at int, evil []byte, spare int) []byte {
	t.Helper()
	h, err := parseHeader(snapshot[:headerSize])
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.chunkKey(testKey)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.Clone(snapshot)
	start := headerSize + chunk*(frameSize+minChunk+tagSize) + frameSize
	ciphertext := out[start : start+minChunk]

	// The keystream of counter mode begins at counter 2; 1 is the tag's.
	plain := make([]byte, minChunk)
	counter := append(chunkNonce(uint64(chunk)), 0, 0, 0, 2)
	cipher.NewCTR(block, counter).XORKeyStream(plain, ciphertext)
	change := make([]byte, minChunk)
	for i, b := range evil {
		change[at+i] = plain[at+i] ^ b
	}

	var zero [16]byte
	block.Encrypt(zero[:], zero[:])
	hash := element(zero[:])
	const blocks = minChunk / 16
	var sum fieldElement
	for i := range blocks {
		// The block of lengths, the last one, has the first power.
		sum = sum.add(element(change[16*i:]).times(hash.power(blocks - i + 1)))
	}
	sum.times(hash.power(blocks - spare + 1).inverse()).put(change[16*spare:])

	for i, b := range change {
		ciphertext[i] ^= b
	}
	return out
}

// fieldElement is one of GF(2^128) in GCM's order of bits (NIST SP 800-38D,
// section 6.3): the first bit, hi's highest, is the coefficient of x^0.
type fieldElement struct{ hi, lo uint64 }

func element(b []byte) fieldElement {
	return fieldElement{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (a fieldElement) put(b []byte) {
	binary.BigEndian.PutUint64(b, a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
}

func (a fieldElement) add(b fieldElement) fieldElement {
	return fieldElement{a.hi ^ b.hi, a.lo ^ b.lo}
}

func (a fieldElement) times(b fieldElement) (out fieldElement) {
	for i := range 128 {
		bit := a.hi >> (63 - i%64) & 1
		if i >= 64 {
			bit = a.lo >> (63 - i%64) & 1
		}
		if bit == 1 {
			out = out.add(b)
		}
		carry := b.lo & 1
		b.lo = b.lo>>1 | b.hi<<63
		b.hi >>= 1
		if carry == 1 {
			b.hi ^= 0xe1 << 56
		}
	}
	return out
}

func (a fieldElement) power(n int) fieldElement {
	out := fieldElement{hi: 1 << 63}
	for range n {
		out = out.times(a)
	}
	return out
}

// inverse is a^(2^128-2).
func (a fieldElement) inverse() fieldElement {
	out := fieldElement{hi: 1 << 63}
	for range 127 {
		a = a.times(a)
		out = out.times(a)
	}
	return out
}
