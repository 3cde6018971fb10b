package launcher

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/wire"
)

// released is what the launcher remembers of the answer that the app runs on, to
// tell what a later one has changed. It holds no secret.
type released struct {
	files   map[string]ident.Digest // as they lie in the app's root
	setting ident.Digest            // command and environment, which nobody can change in a running app
	writes  []writeLease
}

// writeLease is the right to write a volume.
type writeLease struct {
	name  string
	id    ident.Digest
	lease uint64
}

func remember(reply *wire.ReleaseReply) released {
	r := released{files: map[string]ident.Digest{}, setting: settingOf(reply)}
	for _, f := range reply.Files {
		r.files[f.Path] = fileDigest(f)
	}
	for _, v := range reply.Volumes {
		if v.Access == owners.ReadWrite {
			r.writes = append(r.writes, writeLease{v.Name, v.ID, v.Lease})
		}
	}
	return r
}

func fileDigest(f wire.File) ident.Digest {
	return ident.Sum(fmt.Appendf(nil, "%o\n%s", f.Mode, f.Content))
}

func settingOf(reply *wire.ReleaseReply) ident.Digest {
	return ident.Sum([]byte(strings.Join(reply.Argv, "\x00") + "\x00\x00" + strings.Join(reply.Env, "\x00")))
}

// lost names a volume that this copy writes by what it was released, and that
// reply no longer lets it write.
func (r released) lost(reply *wire.ReleaseReply) (volume string, lost bool) {
	now := map[ident.Digest]wire.Volume{}
	for _, v := range reply.Volumes {
		now[v.ID] = v
	}

	for _, w := range r.writes {
		if v := now[w.id]; v.Access != owners.ReadWrite || v.Lease != w.lease {
			return w.name, true
		}
	}
	return "", false
}

// changed returns the certificates and keys that differ from those in the app's
// root. Whatever else a newer version of the session says is for instances that
// are started under it.
func (r released) changed(files []wire.File) []wire.File {
	var out []wire.File
	for _, f := range files {
		was, there := r.files[f.Path]
		if f.Certificate && there && was != fileDigest(f) {
			out = append(out, f)
		}
	}
	return out
}

// staged is a file that waits beside the one that it replaces.
type staged struct {
	dir        int
	temp, name string
}

// replace puts files where their predecessors lie in the app's view, with the
// owner and modes that those had. All are written before the first takes its
// place, and each does by a rename: whoever opens one gets the old or the new,
// never a part.
func (v *appView) replace(files []wire.File, owner appUser) error {
	var all []staged
	defer func() {
		for _, s := range all {
			_ = unix.Unlinkat(s.dir, s.temp, 0) // gone if it was renamed
			_ = unix.Close(s.dir)
		}
	}()

	for _, f := range files {
		s, err := v.stage(f, owner)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		all = append(all, s)
	}

	for i, s := range all {
		if err := unix.Renameat2(s.dir, s.temp, s.dir, s.name, 0); err != nil {
			return fmt.Errorf("%s: %w", files[i].Path, err)
		}
	}
	return nil
}

func (v *appView) stage(f wire.File, owner appUser) (_ staged, err error) {
	if !placeable(f.Path) || f.Mode&^0o777 != 0 {
		return staged{}, errors.New("no place for a file")
	}

	folder, ok := v.folders[f.Path]
	if !ok { // the session has it since its latest version
		folder = path.Dir(f.Path)
	}

	dir, err := v.open(folder, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return staged{}, fmt.Errorf("open its directory: %w", err)
	}

	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	s := staged{dir: dir, temp: ".cupel-" + hex.EncodeToString(random[:]), name: path.Base(f.Path)}

	defer func() {
		if err != nil {
			_ = unix.Unlinkat(dir, s.temp, 0)
			_ = unix.Close(dir)
		}
	}()

	fd, err := unix.Openat(dir, s.temp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return staged{}, err
	}
	defer unix.Close(fd)

	for rest := f.Content; len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return staged{}, err
		}
		rest = rest[max(n, 0):]
	}

	if err := unix.Fchown(fd, owner.UID, owner.GID); err != nil {
		return staged{}, err
	}
	return s, unix.Fchmod(fd, f.Mode)
}
