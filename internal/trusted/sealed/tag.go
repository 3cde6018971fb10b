package sealed

import (
	"crypto/sha256"
	"hash"

	"cupel.dev/cupel/api/ident"
)

// tagDomain begins what a tag of version 2 is the hash of. A version 1 tag's
// hash begins with the magic of the header, so no tag is good for a snapshot
// of the other version, whatever its header claims.
const tagDomain = "cupel/snapshot/tag/v2"

// tagHash computes a snapshot's Tag while the snapshot passes. Version 2 hashes
// every byte, beside the cipher: SHA-256 costs as much as AES-GCM does, and one
// goroutine for both would halve the speed.
type tagHash struct {
	version uint16
	sum     hash.Hash
	busy    chan struct{} // closed when the chunk that was added last is hashed; nil: none is
}

func newTagHash(version uint16, header []byte) *tagHash {
	t := &tagHash{version: version, sum: sha256.New()}
	if version != version1 {
		t.sum.Write([]byte(tagDomain))
	}
	t.sum.Write(header)
	return t
}

// add takes the next chunk: frame, ciphertext and GCM tag. The caller leaves it
// as it is until the next call of add or wait has returned.
func (t *tagHash) add(chunk []byte) {
	t.wait()
	if t.version == version1 {
		t.sum.Write(chunk[:frameSize])
		t.sum.Write(chunk[len(chunk)-tagSize:])
		return
	}

	done := make(chan struct{})
	t.busy = done
	go func() {
		defer close(done)
		t.sum.Write(chunk)
	}()
}

// wait returns when every chunk that was added is hashed.
func (t *tagHash) wait() {
	if t.busy != nil {
		<-t.busy
		t.busy = nil
	}
}

// tag returns the Tag of header and chunks so far.
func (t *tagHash) tag() ident.Digest {
	t.wait()
	return ident.Digest(t.sum.Sum(nil))
}
