package sealed

import (
	"encoding/binary"
	"errors"
	"io"

	"cupel.dev/cupel/api/ident"
)

// StoredTag returns the Tag that the bytes in r have as a snapshot, without its key. Who
// stores snapshots can tell by it whether one is still what was stored, and nothing of who
// wrote it or whether it can be opened. Of version 1, whose Tag doesn't cover it, the
// ciphertext isn't judged.
func StoredTag(r io.Reader) (ident.Digest, error) {
	var raw [headerSize]byte
	n, err := io.ReadFull(r, raw[:])
	if err != nil && !ended(err) {
		return ident.Digest{}, err
	}

	version := uint16(Version)
	if h, err := parseHeader(raw[:n]); err == nil {
		version = h.version
	}

	t := newTagHash(version, raw[:n])
	if version == version1 {
		if err := t.addStored(r); err != nil && !ended(err) {
			return ident.Digest{}, err
		}
	}

	if _, err := io.Copy(t.sum, r); err != nil {
		return ident.Digest{}, err
	}
	return t.tag(), nil
}

// addStored takes the chunks of version 1 to the last one.
func (t *tagHash) addStored(r io.Reader) error {
	var frame [frameSize]byte
	for binary.BigEndian.Uint32(frame[:])&lastChunk == 0 {
		if _, err := io.ReadFull(r, frame[:]); err != nil {
			return err
		}
		t.sum.Write(frame[:])
		if _, err := io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint32(frame[:])&^lastChunk)); err != nil {
			return err
		}
		if _, err := io.CopyN(t.sum, r, tagSize); err != nil {
			return err
		}
	}
	return nil
}

// ended says that there was less to read than a snapshot has.
func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
