package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

var _ manager.VolumeKeeper = (*Node)(nil)

// maxUsers is how many apps are noted of one volume; the one that used it least lately
// goes first.
const maxUsers = 256

// volumeUser is the app that an instance is of.
type volumeUser struct{ id, name string }

// users is the folder with a file for each app whose instances used a volume: its name
// is the app's id, its content what the app was called.
func (s *volumeStore) users(id ident.Digest) string {
	return filepath.Join(filepath.Dir(s.dir), "volume-users", id.String())
}

// use notes that an app uses a volume that is stored here. Without the note the volume
// can still be read: whoever removes it is asked whether it is one of those.
func (s *volumeStore) use(ctx context.Context, id ident.Digest, by volumeUser) {
	s.using.Lock()
	defer s.using.Unlock()

	dir := s.users(id)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, by.id), []byte(by.name), 0o600)
	}
	if err == nil {
		err = dropUsers(dir)
	}
	if err != nil {
		s.logger.WarnContext(ctx, "not noted who uses a volume", "volume", id.String(), "app", by.name, "error", err)
	}
}

// dropUsers removes notes beyond those that are kept.
func dropUsers(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) <= maxUsers {
		return err
	}

	slices.SortFunc(files, func(a, b string) int { return modTime(a).Compare(modTime(b)) })
	for _, file := range files[:len(files)-maxUsers] {
		err = errors.Join(err, os.Remove(file))
	}

	return err
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b.UTC()
	}
	return a
}

func modTime(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// kept says what is stored of a volume.
func (s *volumeStore) kept(id ident.Digest) (manager.VolumeStatus, error) {
	v := manager.VolumeStatus{ID: id, Apps: map[string]string{}}
	snapshots, err := os.ReadDir(filepath.Join(s.dir, id.String()))
	if err != nil {
		return v, fmt.Errorf("look at a volume: %w", err)
	}

	for _, e := range snapshots {
		if info, err := e.Info(); err == nil { // else it was just replaced by a newer one
			v.Size += info.Size()
			v.Used = later(v.Used, info.ModTime())
		}
	}

	users, err := os.ReadDir(s.users(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return v, fmt.Errorf("look who used a volume: %w", err)
	}
	for _, e := range users {
		file := filepath.Join(s.users(id), e.Name())
		name, _ := atomicfile.Read(file)
		v.Apps[e.Name()] = string(name)
		v.Used = later(v.Used, modTime(file))
	}

	newest, err := s.list(id)
	if len(newest) > 0 {
		v.Generation = newest[0].Generation
	}

	return v, err
}

// Volumes implements manager.VolumeKeeper.
func (n *Node) Volumes(context.Context) ([]manager.VolumeStatus, error) {
	entries, err := os.ReadDir(n.volumes.dir)
	if err != nil {
		return nil, fmt.Errorf("look at volumes: %w", err)
	}

	var out []manager.VolumeStatus
	for _, e := range entries {
		id, err := ident.ParseDigest(e.Name())
		if err != nil {
			continue
		}
		v, err := n.volumes.kept(id)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		out = append(out, v)
	}

	return out, nil
}

// RemoveVolume implements manager.VolumeKeeper.
func (n *Node) RemoveVolume(ctx context.Context, id ident.Digest, agree func(manager.VolumeStatus) error) error {
	s := n.volumes
	lock := s.lock(id) // nothing is stored meanwhile
	lock.Lock()
	defer lock.Unlock()

	s.using.Lock()
	defer s.using.Unlock()

	v, err := s.kept(id)
	if errors.Is(err, fs.ErrNotExist) {
		return manager.UnknownVolume(id)
	}
	if err != nil {
		return err
	}
	if err := agree(v); err != nil {
		return err
	}

	// The replica first: what is left of a removal that breaks off is listed still.
	if s.replica != nil {
		if err := s.replica.DropAll(ctx, id); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(s.dir, id.String())), os.RemoveAll(s.users(id))); err != nil {
		return fmt.Errorf("remove a volume: %w", err)
	}

	s.doubt() // of which nothing needs to be remembered
	return nil
}
