package las

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"cupel.dev/cupel/api/ident"
)

// binaries remembers the digests of executed files, by what changes when a
// file's content does. The zero value is ready.
type binaries struct {
	mu    sync.Mutex
	known map[fileID]ident.Digest
}

type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

const maxBinaries = 64

// digest returns the SHA-256 of the file at path, which may be a process's exe
// link: then it is the very file that is executed, whatever is now at its name.
func (b *binaries) digest(path string) (ident.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return ident.Digest{}, fmt.Errorf("measure binary: %w", err)
	}
	defer f.Close()

	info, err := f.Stat()
	if err != nil {
		return ident.Digest{}, fmt.Errorf("measure binary: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return ident.Digest{}, fmt.Errorf("measure binary: %s is no regular file", path)
	}

	id := fileID{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
	b.mu.Lock()
	d, ok := b.known[id]
	b.mu.Unlock()
	if ok {
		return d, nil
	}

	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ident.Digest{}, fmt.Errorf("measure binary: %w", err)
	}
	d = ident.Digest(h.Sum(nil))

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil || len(b.known) >= maxBinaries {
		b.known = map[fileID]ident.Digest{}
	}
	b.known[id] = d
	return d, nil
}
