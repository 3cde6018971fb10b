package sealed

import (
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
)

// snapshotReader verifies and decrypts. See OpenSnapshot.
type snapshotReader struct {
	r     io.Reader
	aead  cipher.AEAD
	head  [32]byte
	chunk uint32
	tag   *tagHash
	want  ident.Digest
	in    []byte // frame and ciphertext of one chunk, reused
	buf   []byte // verified plaintext, reused
	text  []byte // what of buf was not read yet
	index uint64
	err   error // what Read returns when text is empty
}

// OpenSnapshot checks the header of the snapshot in r against what the CAS
// says about the volume, and returns a Reader of the plaintext. A Read returns
// only bytes whose chunk was verified; io.EOF means that all of the snapshot,
// to its last byte, is the one that wantTag names. On any other error what was
// read before must be thrown away. Refusals are problems with the Rules above.
func OpenSnapshot(r io.Reader, key secret.Value, id ident.Digest, wantGeneration uint64, wantTag ident.Digest) (io.Reader, error) {
	var raw [headerSize]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return nil, readError(err, "in its header")
	}

	h, err := parseHeader(raw[:])
	if errors.Is(err, errVersion) {
		return nil, refuse(RuleFormat, "%v", err).Fix("start the service with the launcher that wrote the volume, or with a newer one")
	}
	if err != nil {
		return nil, refuse(RuleFormat, "%v", err)
	}

	if err := h.check(id, wantGeneration); err != nil {
		return nil, err
	}

	claimed := h.keyID
	aead, err := openKey(key, &h)
	if err != nil {
		return nil, err
	}
	if claimed != h.keyID {
		return nil, refuse(RuleKey, "the snapshot is under key %x", claimed).Want("key %x", h.keyID)
	}

	return &snapshotReader{
		r:     r,
		aead:  aead,
		head:  sha256.Sum256(raw[:]),
		chunk: h.chunk,
		tag:   newTagHash(h.version, raw[:]),
		want:  wantTag,
		in:    make([]byte, frameSize+int(h.chunk)+tagSize),
		buf:   make([]byte, 0, h.chunk),
	}, nil
}

func (h header) check(id ident.Digest, generation uint64) error {
	switch {
	case h.id != id:
		return refuse(RuleSwapped, "storage answered with a snapshot of volume %s", h.id).Want("volume %s", id)
	case h.generation < generation:
		return refuse(RuleRolledBack, "storage answered with generation %d", h.generation).
			Want("generation %d, the newest that the CAS knows", generation)
	case h.generation > generation:
		return refuse(RuleAhead, "storage answered with generation %d", h.generation).
			Want("generation %d, the newest that the CAS knows", generation)
	}
	return nil
}

// Read returns verified plaintext.
func (s *snapshotReader) Read(b []byte) (int, error) {
	for len(s.text) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.next()
	}

	n := copy(b, s.text)
	s.text = s.text[n:]
	return n, nil
}

// next opens the next chunk into s.text, and judges the whole after the last.
func (s *snapshotReader) next() {
	s.tag.wait() // the chunk before may still be hashed

	frame := s.in[:frameSize]
	if _, err := io.ReadFull(s.r, frame); err != nil {
		s.err = readError(err, "before its last chunk")
		return
	}
	f := binary.BigEndian.Uint32(frame)
	size, last := f&^lastChunk, f&lastChunk != 0
	if size > s.chunk || (!last && size != s.chunk) || (last && size == 0 && s.index > 0) {
		s.err = refuse(RuleTampered, "chunk %d claims an impossible size", s.index)
		return
	}

	in := s.in[:frameSize+int(size)+tagSize]
	if _, err := io.ReadFull(s.r, in[frameSize:]); err != nil {
		s.err = readError(err, "within a chunk")
		return
	}

	s.tag.add(in)
	text, err := s.aead.Open(s.buf[:0], chunkNonce(s.index), in[frameSize:], chunkData(s.head, s.index, f))
	if err != nil {
		s.err = refuse(RuleTampered, "chunk %d does not verify", s.index)
		return
	}

	s.index++
	if last {
		s.err = s.finish()
		// Plaintext of a last chunk that ends a wrong whole is kept back.
		if !errors.Is(s.err, io.EOF) {
			return
		}
	}
	s.text = text
}

// finish returns io.EOF if the snapshot ends here and is the wanted one.
func (s *snapshotReader) finish() error {
	var one [1]byte
	switch n, err := io.ReadFull(s.r, one[:]); {
	case n > 0:
		return refuse(RuleTampered, "bytes follow the last chunk")
	case !errors.Is(err, io.EOF):
		return readError(err, "at its end")
	}

	if got := s.tag.tag(); got != s.want {
		return refuse(RuleForked, "the snapshot's tag is %s", got).Want("%s, the tag that the CAS keeps", s.want)
	}
	return io.EOF
}

// readError sorts the end of the input from a source that failed.
func readError(err error, where string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse(RuleTruncated, "the snapshot ends %s", where)
	}

	if p, ok := errors.AsType[*problem.Error](err); ok {
		return p
	}
	return problem.New(problem.Unavailable, ruleVolumeRead, "read snapshot: %w", err)
}

// refuse makes the refusal of one rule. The mend is the same for all: what is
// on the storage can't be talked into being right.
func refuse(rule problem.Rule, format string, args ...any) *problem.Error {
	return problem.New(problem.Denied, rule, format, args...).
		Fix("have the operator put back the volume's newest snapshot as it was stored")
}
