package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// volumeStore keeps snapshots of encrypted volumes: VOLUME/GENERATION files of
// ciphertext, which it can't read. It keeps the generation stored last and the
// one before, because a snapshot whose tag never reached the CAS leaves the one
// before as the newest that anybody may use.
type volumeStore struct {
	dir     string
	replica Replica // may be nil
	logger  *slog.Logger

	mu    sync.Mutex
	locks map[ident.Digest]*sync.Mutex // one PUT at a time for a volume
}

func (s *volumeStore) lock(id ident.Digest) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[id] == nil {
		s.locks[id] = &sync.Mutex{}
	}
	return s.locks[id]
}

func (s *volumeStore) path(id ident.Digest, generation uint64) string {
	return filepath.Join(s.dir, id.String(), strconv.FormatUint(generation, 10))
}

// open returns the ciphertext of a generation, from here or from the replica.
// Size is -1 where it isn't known.
func (s *volumeStore) open(ctx context.Context, id ident.Digest, generation uint64) (io.ReadCloser, int64, error) {
	f, err := os.Open(s.path(id, generation))
	switch {
	case err == nil:
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, 0, fmt.Errorf("open volume snapshot: %w", err)
		}
		return f, info.Size(), nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, 0, fmt.Errorf("open volume snapshot: %w", err)
	case s.replica == nil:
		return nil, 0, problem.New(problem.NotFound, "volume_missing", "generation %d of volume %s is not stored", generation, id)
	}
	r, err := s.replica.Pull(ctx, id, generation)
	return r, -1, err
}

// newest returns the highest generation that is stored here; 0 if none is.
func (s *volumeStore) newest(id ident.Digest) (uint64, error) {
	gens, err := s.generations(id)
	if err != nil || len(gens) == 0 {
		return 0, err
	}
	var top uint64
	for _, g := range gens {
		top = max(top, g)
	}
	return top, nil
}

func (s *volumeStore) generations(id ident.Digest) ([]uint64, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, id.String()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read volume folder: %w", err)
	}
	var gens []uint64
	for _, e := range entries {
		if g, err := strconv.ParseUint(e.Name(), 10, 64); err == nil {
			gens = append(gens, g)
		}
	}
	return gens, nil
}

// put stores a generation and returns when it is durable, here and in the
// replica. What breaks off stores nothing.
func (s *volumeStore) put(ctx context.Context, id ident.Digest, generation uint64, body io.Reader) error {
	lock := s.lock(id)
	lock.Lock()
	defer lock.Unlock()
	dir := filepath.Join(s.dir, id.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return storeError(err)
	}
	size, err := s.receive(dir, s.path(id, generation), body)
	if err != nil {
		return err
	}
	if s.replica != nil {
		open := func() (io.ReadCloser, error) { return os.Open(s.path(id, generation)) }
		if err := s.replica.Push(ctx, id, generation, size, open); err != nil {
			return problem.New(problem.Unavailable, "registry_unreachable", "store the volume's snapshot in the registry: %w", err).
				Fix("look at the registry, then run the instance again")
		}
	}
	gens, err := s.generations(id)
	if err != nil {
		return err
	}
	for _, g := range gens {
		if g+1 < generation {
			if err := os.Remove(s.path(id, g)); err != nil {
				s.logger.WarnContext(ctx, "old volume snapshot stays", "volume", id.String(), "generation", g, "error", err)
			}
		}
	}
	return nil
}

// receive writes body to path by way of a temporary file.
func (s *volumeStore) receive(dir, path string, body io.Reader) (int64, error) {
	f, err := os.CreateTemp(dir, ".put-*")
	if err != nil {
		return 0, storeError(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	size, err := io.Copy(f, body)
	if err != nil {
		return 0, storeError(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, storeError(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return 0, storeError(err)
	}
	if err := atomicfile.SyncDir(dir); err != nil {
		return 0, storeError(err)
	}
	// The folder itself may be new.
	return size, atomicfile.SyncDir(s.dir)
}

// sweep removes what PUTs that were killed left behind.
func (s *volumeStore) sweep() error {
	left, err := filepath.Glob(filepath.Join(s.dir, "*", ".put-*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// storeError explains why a snapshot could not be stored.
func storeError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return problem.New(problem.Unavailable, "disk_full", "store the volume's snapshot: %w", err).
			Fix("free space on the node's state folder, then run the instance again")
	}
	return problem.New(problem.Unavailable, "volume_store", "store the volume's snapshot: %w", err)
}
