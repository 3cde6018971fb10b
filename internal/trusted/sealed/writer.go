package sealed

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/aesgcm"
	"cupel.dev/cupel/internal/trusted/secret"
)

// SnapshotWriter encrypts what is written to it. Close ends the snapshot; only
// then it is whole and has a Tag.
type SnapshotWriter struct {
	w      io.Writer
	aead   cipher.AEAD
	head   [32]byte
	tag    *tagHash
	buf    []byte    // plaintext of the chunk being filled
	out    [2][]byte // frame and ciphertext; one is hashed while the other is filled
	index  uint64
	closed bool
	err    error
}

// NewSnapshotWriter begins the snapshot of volume id's generation and writes
// its header to w. Key is the volume's key of KeySize bytes.
func NewSnapshotWriter(w io.Writer, key secret.Value, id ident.Digest, generation uint64) (*SnapshotWriter, error) {
	return newSnapshotWriter(w, key, id, generation, defaultChunk)
}

func newSnapshotWriter(w io.Writer, key secret.Value, id ident.Digest, generation uint64, chunk uint32) (*SnapshotWriter, error) {
	h := header{
		version:    Version,
		chunk:      chunk,
		id:         id,
		generation: generation,
	}
	_, _ = rand.Read(h.salt[:]) // never fails: crypto/rand ends the program first
	aead, err := openKey(key, &h)
	if err != nil {
		return nil, err
	}

	raw := h.encode()
	s := &SnapshotWriter{
		w:    w,
		aead: aead,
		head: sha256.Sum256(raw),
		tag:  newTagHash(h.version, raw),
		buf:  make([]byte, 0, chunk),
	}

	for i := range s.out {
		s.out[i] = make([]byte, 0, frameSize+int(chunk)+tagSize)
	}

	if _, err := w.Write(raw); err != nil {
		return nil, fmt.Errorf("write snapshot header: %w", err)
	}
	return s, nil
}

// openKey sets h's key id and returns the cipher of its chunks.
func openKey(key secret.Value, h *header) (cipher.AEAD, error) {
	if key.Len() != KeySize {
		return nil, fmt.Errorf("volume key of %d bytes, want %d", key.Len(), KeySize)
	}
	id, err := keyID(key)
	if err != nil {
		return nil, fmt.Errorf("derive key id: %w", err)
	}

	h.keyID = id

	ck, err := h.chunkKey(key)
	if err != nil {
		return nil, fmt.Errorf("derive chunk key: %w", err)
	}

	defer clear(ck)
	return aesgcm.New(ck)
}

// Write encrypts b; a full chunk goes out when more follows it.
func (s *SnapshotWriter) Write(b []byte) (int, error) {
	if s.closed {
		return 0, errors.New("write to a closed snapshot")
	}

	n := 0
	for len(b) > 0 {
		if len(s.buf) == cap(s.buf) {
			if s.seal(false); s.err != nil {
				return n, s.err
			}
		}

		m := copy(s.buf[len(s.buf):cap(s.buf)], b)
		s.buf = s.buf[:len(s.buf)+m]
		b, n = b[m:], n+m
	}
	return n, s.err
}

// Close writes the last chunk. It does not close the underlying writer.
func (s *SnapshotWriter) Close() error {
	if !s.closed {
		s.closed = true
		s.seal(true)
		clear(s.buf[:cap(s.buf)])
	}
	return s.err
}

// Tag names exactly this snapshot. It is zero before a successful Close.
func (s *SnapshotWriter) Tag() ident.Digest {
	if !s.closed || s.err != nil {
		return ident.Digest{}
	}
	return s.tag.tag()
}

func (s *SnapshotWriter) seal(last bool) {
	if s.err != nil {
		return
	}
	frame := uint32(len(s.buf))
	if last {
		frame |= lastChunk
	}

	out := binary.BigEndian.AppendUint32(s.out[s.index%2][:0], frame)
	out = s.aead.Seal(out, chunkNonce(s.index), s.buf, chunkData(s.head, s.index, frame))

	s.tag.add(out)
	s.buf = s.buf[:0]
	s.index++

	if _, err := s.w.Write(out); err != nil {
		s.err = fmt.Errorf("write snapshot chunk: %w", err)
	}
}
