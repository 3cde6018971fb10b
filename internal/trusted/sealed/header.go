package sealed

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/secret"
)

const (
	magic = "CUPELSNP"
	// Version is the version of the snapshot format that is written.
	Version = version2

	version1 = 1 // read only; see the package's documentation
	version2 = 2

	// KeySize is the length of a volume's key.
	KeySize = 32

	headerSize   = 8 + 2 + 2 + 4 + 32 + 8 + 16 + 32
	frameSize    = 4
	tagSize      = 16
	lastChunk    = 1 << 31
	minChunk     = 1 << 12
	maxChunk     = 1 << 22
	defaultChunk = 1 << 20
)

// header is the parsed first part of a snapshot. Its fields are the storage's
// claims until a chunk was opened under them.
type header struct {
	version    uint16
	chunk      uint32
	id         ident.Digest
	generation uint64
	keyID      [16]byte
	salt       [32]byte
}

func (h header) encode() []byte {
	b := append(make([]byte, 0, headerSize), magic...)
	b = binary.BigEndian.AppendUint16(b, h.version)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint32(b, h.chunk)
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, h.generation)
	b = append(b, h.keyID[:]...)
	return append(b, h.salt[:]...)
}

// errVersion is for a snapshot that may well be right, and newer than this code.
var errVersion = errors.New("snapshot format version")

// parseHeader reads a header of exactly headerSize bytes.
func parseHeader(b []byte) (header, error) {
	var h header
	if len(b) != headerSize || string(b[:8]) != magic {
		return h, fmt.Errorf("it does not begin as a snapshot does")
	}
	if h.version = binary.BigEndian.Uint16(b[8:]); h.version != version1 && h.version != version2 {
		return h, fmt.Errorf("%w %d, this launcher reads %d and %d", errVersion, h.version, version1, version2)
	}

	if r := binary.BigEndian.Uint16(b[10:]); r != 0 {
		return h, fmt.Errorf("reserved bits %#x are set", r)
	}

	h.chunk = binary.BigEndian.Uint32(b[12:])
	if h.chunk < minChunk || h.chunk > maxChunk || bits.OnesCount32(h.chunk) != 1 {
		return h, fmt.Errorf("chunk size %d is not a power of two from %d to %d", h.chunk, minChunk, maxChunk)
	}

	copy(h.id[:], b[16:])
	h.generation = binary.BigEndian.Uint64(b[48:])
	copy(h.keyID[:], b[56:])
	copy(h.salt[:], b[72:])
	return h, nil
}

// keyID names a key without telling it: 16 bytes derived from it.
func keyID(key secret.Value) ([16]byte, error) {
	var id [16]byte
	b, err := hkdf.Key(sha256.New, key.Reveal(), nil, "cupel/snapshot/key-id/v1", len(id))
	copy(id[:], b)
	return id, err
}

// chunkKey derives the key of one snapshot's chunks, another one for each
// version of the format.
func (h header) chunkKey(key secret.Value) ([]byte, error) {
	info := fmt.Appendf(nil, "cupel/snapshot/v%d", h.version)
	info = append(info, h.id[:]...)
	info = binary.BigEndian.AppendUint64(info, h.generation)
	return hkdf.Key(sha256.New, key.Reveal(), h.salt[:], string(info), KeySize)
}

// nonce and additional data of one chunk.
func chunkNonce(index uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), index)
}

func chunkData(head [32]byte, index uint64, frame uint32) []byte {
	b := append(make([]byte, 0, 44), head[:]...)
	b = binary.BigEndian.AppendUint64(b, index)
	return binary.BigEndian.AppendUint32(b, frame)
}
