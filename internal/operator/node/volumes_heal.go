package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/wire"
)

// heal opens a snapshot that was found damaged, once the replica's copy has taken its place.
// Of several who found it so one heals it; the others wait, and then find it whole. Where no
// copy is whole, the damaged one is opened. [fs.ErrNotExist] says that the replica has it,
// and this node can't keep it.
func (s *volumeStore) heal(ctx context.Context, v wire.Snapshot) (*os.File, int64, error) {
	lock := s.lock(v.Volume)
	lock.Lock()
	defer lock.Unlock()

	f, size, err := s.openHere(ctx, v)
	if !isDamaged(ctx, err) {
		return f, size, err
	}

	whole, err := s.replace(ctx, v, err)
	s.noteGiven(ctx, v, err)
	switch {
	case err == nil:
		_ = f.Close()
		return s.openHere(ctx, v)
	case whole:
		_ = f.Close()
		return nil, 0, fs.ErrNotExist
	case f == nil: // a folder
		return nil, 0, err
	}
	return f, size, nil
}

// replace puts the file of a snapshot aside and the replica's copy of the same one into
// its place. Where the replica has none that is whole, or can't be asked, the file stays.
func (s *volumeStore) replace(ctx context.Context, v wire.Snapshot, why error) (whole bool, err error) {
	found, err := s.fetch(ctx, v)
	if err != nil {
		return false, problem.New(problem.Unavailable, ruleVolumeDamaged, "the node's copy of generation %d of volume %s is damaged (%w), and the registry's can't take its place: %w", v.Generation, v.Volume, why, err).
			Want("one of them as it was stored").
			Fix("look at the disk (dmesg) and at the registry; if it has none, put back %s, or the registry's folder, from a backup of the state folder. Without one the owner starts the volume afresh, without what it held (cupel volume reset)", s.path(v))
	}
	defer found.drop()

	aside, err := s.putAside(v)
	if err != nil {
		return true, err
	}
	if err := s.keep(found, v); err != nil {
		s.logger.WarnContext(ctx, "a volume's snapshot stays in the registry alone", "volume", v.Volume.String(), "error", err)
	}
	s.tell(ctx, manager.Incident{
		Warning: true, Reason: reasonVolumeDamaged,
		Message: fmt.Sprintf("the node's copy of generation %d of volume %s was damaged (%v): the registry's copy of the same generation, which is whole, takes its place, and nothing is lost. "+
			"The damaged one was put aside as node/%s, which can be removed once nobody wants to look at it. Look at the disk (dmesg)", v.Generation, v.Volume, why, aside),
	})

	return true, nil
}

// fetched is what came of a snapshot from the replica, in a temporary file as far as the
// disk took it.
type fetched struct {
	file *os.File
	err  error // why the file is not all of it
}

// Write implements io.Writer. What the disk doesn't take is told by err.
func (f *fetched) Write(b []byte) (int, error) {
	if f.err == nil {
		_, f.err = f.file.Write(b)
	}
	return len(b), nil
}

// drop removes the temporary file, unless it was kept.
func (f *fetched) drop() {
	if f.file != nil {
		_ = f.file.Close()
		_ = os.Remove(f.file.Name())
	}
}

// fetch brings a snapshot from the replica if that has it as it was stored, and judges it
// on its way. That it is whole holds whether this node's disk takes it or not.
func (s *volumeStore) fetch(ctx context.Context, v wire.Snapshot) (*fetched, error) {
	if s.replica == nil {
		return nil, s.missing(v)
	}
	r, err := s.replica.Stream(ctx, v)
	if err != nil {
		return nil, err
	}
	defer r.Close()

	f := &fetched{}
	f.file, f.err = os.CreateTemp(filepath.Dir(s.path(v)), temporary)
	if err := checkTag(io.TeeReader(r, f), v.Tag); err != nil {
		f.drop()
		return nil, err
	}

	return f, nil
}

// keep makes what was fetched of a snapshot the node's copy.
func (s *volumeStore) keep(f *fetched, v wire.Snapshot) error {
	if f.err != nil {
		return f.err
	}

	if err := errors.Join(f.file.Sync(), f.file.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.file.Name(), s.path(v)); err != nil {
		return err
	}

	if info, err := os.Stat(s.path(v)); err == nil {
		s.whole.Store(v, stateOf(info))
	}

	return atomicfile.SyncDir(filepath.Dir(s.path(v)))
}

// putAside moves the file of a snapshot where nobody takes it for one, and says where.
func (s *volumeStore) putAside(v wire.Snapshot) (string, error) {
	node := filepath.Dir(s.dir)
	name := filepath.Join(damagedDir, fmt.Sprintf("%s-%s", v.Volume, filepath.Base(s.path(v))))
	err := os.MkdirAll(filepath.Join(node, damagedDir), 0o700)
	if err == nil {
		err = os.Rename(s.path(v), filepath.Join(node, name))
	}
	if err != nil {
		return "", diskerror.Explain(fmt.Errorf("put a damaged volume aside: %w", err), node, "the node's state folder")
	}
	return name, nil
}
