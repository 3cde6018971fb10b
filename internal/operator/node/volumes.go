package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/wire"
)

// volumeStore keeps snapshots of encrypted volumes: VOLUME/GENERATION-TAG files
// of ciphertext, which it can't read. It keeps the generation stored last and
// the one before, because a snapshot whose tag never reached the CAS leaves the
// one before as the newest that anybody may use.
//
// Of one generation there may be several: which one the CAS took is not known
// here, so a writer that lost its lease must not replace its successor's.
type volumeStore struct {
	dir     string
	replica Replica // may be nil
	logger  *slog.Logger
	tell    func(context.Context, manager.Incident)
	note    func(ctx context.Context, what string, err error) // how something went that is tried again

	mu    sync.Mutex
	locks map[ident.Digest]*sync.Mutex // one PUT at a time for a volume

	using sync.Mutex // guards the notes of who uses a volume

	whole sync.Map // by snapshot, the fileState of what was judged to be what was stored
}

func (s *volumeStore) lock(id ident.Digest) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[id] == nil {
		s.locks[id] = &sync.Mutex{}
	}
	return s.locks[id]
}

func (s *volumeStore) path(v wire.Snapshot) string {
	return filepath.Join(s.dir, v.Volume.String(), fmt.Sprintf("%d-%s", v.Generation, v.Tag))
}

// open returns a snapshot's ciphertext, from here or, where it isn't here as it was
// stored, from the replica. Size is -1 where it isn't known. One that is damaged
// everywhere is returned as it is: who can judge it says by which rule it is refused.
func (s *volumeStore) open(ctx context.Context, v wire.Snapshot) (io.ReadCloser, int64, error) {
	f, size, err := s.openHere(ctx, v)
	if isDamaged(ctx, err) {
		_ = f.Close() // none of a folder
		f, size, err = s.heal(ctx, v)
	} else {
		s.noteGiven(ctx, v, nil)
	}

	// What isn't here the replica may have.
	switch {
	case err == nil:
		return f, size, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, 0, err
	case s.replica == nil:
		return nil, 0, s.missing(v)
	}

	r, err := s.replica.Pull(ctx, v)
	return r, -1, err
}

// missing is the refusal of a snapshot that is nowhere.
func (s *volumeStore) missing(v wire.Snapshot) error {
	return problem.New(problem.NotFound, wire.RuleVolumeMissing, "generation %d of volume %s is not stored", v.Generation, v.Volume)
}

// noteGiven notes how it went to have a snapshot as it was stored.
func (s *volumeStore) noteGiven(ctx context.Context, v wire.Snapshot, err error) {
	s.note(ctx, "give out volume "+v.Volume.String()+" as it was stored", err)
}

// list returns the snapshots of a volume that are stored here, those of the
// highest generation first, and of one generation the one stored last.
func (s *volumeStore) list(id ident.Digest) ([]wire.Snapshot, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, id.String()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read volume folder: %w", err)
	}

	type stored struct {
		wire.Snapshot
		at time.Time
	}

	var found []stored
	for _, e := range entries {
		number, tag, _ := strings.Cut(e.Name(), "-")
		g, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			continue
		}
		v := stored{Snapshot: wire.Snapshot{Volume: id, Generation: g}}
		if v.Tag, err = ident.ParseDigest(tag); err != nil {
			continue
		}
		if info, err := e.Info(); err == nil {
			v.at = info.ModTime()
		}
		found = append(found, v)
	}

	slices.SortStableFunc(found, func(a, b stored) int {
		return cmp.Or(cmp.Compare(b.Generation, a.Generation), b.at.Compare(a.at))
	})

	out := make([]wire.Snapshot, 0, len(found))
	for _, v := range found {
		out = append(out, v.Snapshot)
	}
	return out, nil
}

// put stores a generation and returns when it is durable, here and in the
// replica. What breaks off stores nothing. Tag is asked for when body ended.
func (s *volumeStore) put(ctx context.Context, id ident.Digest, generation uint64, body io.Reader, tag func() (ident.Digest, error)) error {
	lock := s.lock(id)
	lock.Lock()
	defer lock.Unlock()

	dir := filepath.Join(s.dir, id.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s.storeError(err)
	}

	v := wire.Snapshot{Volume: id, Generation: generation}
	size, fresh, err := s.receive(dir, &v, body, tag)
	if err != nil {
		return err
	}

	if s.replica != nil {
		open := func() (io.ReadCloser, error) { return atomicfile.Open(s.path(v)) }
		if err := s.replica.Push(ctx, v, size, open); err != nil {
			if fresh { // the next try has other bytes and another tag
				s.remove(ctx, v)
			}
			return problem.New(problem.Unavailable, problem.RuleRegistryUnreachable, "store the volume's snapshot in the registry: %w", err).
				Fix("look at the registry, then run the instance again")
		}
	}

	return s.prune(ctx, v)
}

// keepSnapshots is how many snapshots of one generation stay. Another one comes
// about when a writer can't tell the CAS its tag, or lost its lease in the
// middle of a PUT.
const keepSnapshots = 4

// prune removes what nobody may ask for once newest is stored.
func (s *volumeStore) prune(ctx context.Context, newest wire.Snapshot) error {
	all, err := s.list(newest.Volume)
	if err != nil {
		return err
	}

	same := 0
	for _, v := range all {
		if v.Generation == newest.Generation {
			if same++; same > keepSnapshots {
				s.remove(ctx, v)
				if s.replica == nil {
					continue
				}
				if err := s.replica.Drop(ctx, v); err != nil {
					s.stays(ctx, v, err)
				}
			}
		} else if v.Generation+1 < newest.Generation {
			s.remove(ctx, v)
		}
	}

	return nil
}

func (s *volumeStore) remove(ctx context.Context, v wire.Snapshot) {
	s.whole.Delete(v)
	if err := os.Remove(s.path(v)); err != nil {
		s.stays(ctx, v, err)
	}
}

func (s *volumeStore) stays(ctx context.Context, v wire.Snapshot, err error) {
	s.logger.WarnContext(ctx, "volume snapshot stays", "volume", v.Volume.String(), "generation", v.Generation, "error", err)
}

// receive writes body to its place by way of a temporary file and completes
// the snapshot's name. Fresh is false if a snapshot of that name is there
// already: it stays as it is.
func (s *volumeStore) receive(dir string, v *wire.Snapshot, body io.Reader, tag func() (ident.Digest, error)) (size int64, fresh bool, err error) {
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return 0, false, s.storeError(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()

	if size, err = io.Copy(f, body); err != nil {
		return 0, false, s.storeError(err)
	}
	if v.Tag, err = tag(); err != nil {
		return 0, false, err
	}

	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, false, s.storeError(err)
	}

	if err := os.Link(f.Name(), s.path(*v)); errors.Is(err, fs.ErrExist) {
		info, err := os.Stat(s.path(*v))
		if err != nil {
			return 0, false, s.storeError(err)
		}
		return info.Size(), false, nil
	} else if err != nil {
		return 0, false, s.storeError(err)
	}

	if err := errors.Join(atomicfile.SyncDir(dir), atomicfile.SyncDir(s.dir)); err != nil { // the folder itself may be new
		return 0, false, s.storeError(err)
	}
	return size, true, nil
}

// temporary is the name of a file that becomes a snapshot once all of it is there.
const temporary = ".put-*"

// sweep removes what was left behind of those that never became one.
func (s *volumeStore) sweep() error {
	left, err := filepath.Glob(filepath.Join(s.dir, "*", temporary))
	if err != nil {
		return err
	}
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// storeError explains why a snapshot could not be stored.
func (s *volumeStore) storeError(err error) error {
	err = diskerror.Explain(fmt.Errorf("store the volume's snapshot: %w", err), s.dir, "the node's state folder")
	if _, explained := errors.AsType[*problem.Error](err); explained {
		return err
	}
	return problem.New(problem.Unavailable, problem.RuleVolumeStore, "%w", err)
}
