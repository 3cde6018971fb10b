package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/sealed"
	"cupel.dev/cupel/internal/trusted/volume"
)

// volumeDamaged is the event, and the rule, of a snapshot that a disk or a hand changed here.
const volumeDamaged = "volume_damaged"

// errOtherBytes says that a snapshot is not what its tag names.
var errOtherBytes = errors.New("it has other bytes than were stored there, more or less of them")

// judge returns why a file isn't the snapshot that was stored under that tag; nil where it
// is, and then it is read from its beginning.
func judge(f io.ReadSeeker, tag ident.Digest) error {
	got, err := sealed.StoredTag(f)
	if err == nil && got != tag {
		err = errOtherBytes
	}
	_, serr := f.Seek(0, io.SeekStart)
	return errors.Join(err, serr)
}

// openHere opens the file of a snapshot. With an error, which says why it isn't the one
// that was stored, it returns the file too where there is one to be read.
func (s *volumeStore) openHere(v volume.Snapshot) (*os.File, int64, error) {
	f, err := atomicfile.Open(s.path(v))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = syscall.EISDIR
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, info.Size(), judge(f, v.Tag)
}

// replace puts the file of a snapshot aside and the replica's copy of the same one into
// its place. Where the replica has none that is whole, or can't be asked, the file stays.
func (s *volumeStore) replace(ctx context.Context, v volume.Snapshot, why error) error {
	if err := s.replicaWhole(ctx, v); err != nil {
		return problem.New(problem.Unavailable, volumeDamaged, "the node's copy of generation %d of volume %s is damaged (%w), and the registry's can't take its place: %w", v.Generation, v.Volume, why, err).
			Want("one of them as it was stored").
			Fix("look at the disk (dmesg) and at the registry; if it has none, put back %s, or the registry's folder, from a backup of the state folder. Without one the owner starts the volume afresh, without what it held (cupel volume reset)", s.path(v))
	}
	aside, err := s.putAside(v)
	if err != nil {
		return err
	}
	s.tell(ctx, manager.Incident{
		Warning: true, Reason: volumeDamaged,
		Message: fmt.Sprintf("the node's copy of generation %d of volume %s was damaged (%v): the registry's copy of the same generation, which is whole, takes its place, and nothing is lost. "+
			"The damaged one was put aside as node/%s, which can be removed once nobody wants to look at it. Look at the disk (dmesg)", v.Generation, v.Volume, why, aside),
	})
	if err := s.restore(ctx, v); err != nil {
		s.logger.WarnContext(ctx, "a volume's snapshot stays in the registry alone", "volume", v.Volume.String(), "error", err)
	}
	return nil
}

// replicaWhole tells whether the replica has a snapshot as it was stored.
func (s *volumeStore) replicaWhole(ctx context.Context, v volume.Snapshot) error {
	r, err := s.openReplica(ctx, v)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := sealed.StoredTag(r)
	if err == nil && got != v.Tag {
		err = errOtherBytes
	}
	return err
}

// restore stores a snapshot here as the replica has it.
func (s *volumeStore) restore(ctx context.Context, v volume.Snapshot) error {
	r, err := s.openReplica(ctx, v)
	if err != nil {
		return err
	}
	defer r.Close()
	_, _, err = s.receive(filepath.Dir(s.path(v)), &v, r, func() (ident.Digest, error) { return v.Tag, nil })
	return err
}

// putAside moves the file of a snapshot where nobody takes it for one, and says where.
func (s *volumeStore) putAside(v volume.Snapshot) (string, error) {
	node := filepath.Dir(s.dir)
	name := filepath.Join(damagedDir, fmt.Sprintf("%s-%s", v.Volume, filepath.Base(s.path(v))))
	err := os.MkdirAll(filepath.Join(node, damagedDir), 0o700)
	if err == nil {
		err = os.Rename(s.path(v), filepath.Join(node, name))
	}
	if err != nil {
		return "", fmt.Errorf("put a damaged volume aside: %w", err)
	}
	return name, nil
}
