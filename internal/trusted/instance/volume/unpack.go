package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/problem"
)

// Unpack reads an archive that Pack wrote, to the end of r, into the empty
// directory root. Pages of zeros become holes, the others are written only after
// they were accounted for: an archive that costs more than limit bytes of memory is
// refused as too large. On any error the directory holds a part that must be thrown away;
// errors of r itself come back unchanged, so that the snapshot's own refusal
// is what the reader sees.
func Unpack(ctx context.Context, r io.Reader, root *os.Root, limit uint64) error {
	u := unpacker{
		root:  root,
		meter: meter{limit: limit},
		dirs:  map[string]bool{},
		files: map[string]bool{},
		links: map[string]bool{},
	}

	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("unpack volume: %w", err)
		}

		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return sourceError(err)
		}
		if err := u.entry(h, tr); err != nil {
			return err
		}
	}

	if n, err := io.Copy(io.Discard, r); err != nil {
		return err
	} else if n > 0 || len(u.dirs) == 0 {
		return malformed("%d bytes follow the archive of %d directories", n, len(u.dirs))
	}
	return u.finish()
}

type unpacker struct {
	root  *os.Root
	meter meter
	// What the archive itself declared: an entry's parent must be a directory
	// of the archive, so no symbolic link is ever walked through.
	dirs, files, links map[string]bool
	order              []*tar.Header // directories, for modes and times at the end
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := u.place(h)
	if err != nil {
		return err
	}

	size := int64(0)
	if h.Typeflag == tar.TypeReg {
		size = h.Size
	}
	if err := u.account(h, size); err != nil {
		return err
	}

	switch h.Typeflag {
	case tar.TypeDir:
		u.dirs[name] = true
		u.order = append(u.order, h)
		if name != "." {
			err = u.root.Mkdir(name, 0o700)
		}
		return wrap(err)
	case tar.TypeReg:
		u.files[name] = true
		return u.file(name, h, content)
	case tar.TypeSymlink:
		u.links[name] = true
		if h.Linkname == "" {
			return malformed("%q points nowhere", name)
		}
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return wrap(err)
		}
		return wrap(u.root.Lchown(name, h.Uid, h.Gid))
	case tar.TypeLink:
		if !u.files[h.Linkname] {
			return malformed("%q is a hard link to %q, which is no file of the archive", name, h.Linkname)
		}
		u.files[name] = true
		return wrap(u.root.Link(h.Linkname, name))
	}
	return malformed("%q is of type %q", name, h.Typeflag)
}

func (u *unpacker) account(h *tar.Header, size int64) error {
	if h.Typeflag == tar.TypeSymlink {
		return u.meter.symlink(int64(len(h.Linkname)))
	}
	return u.meter.entry(size)
}

// place checks an entry's name and returns it without a directory's slash.
func (u *unpacker) place(h *tar.Header) (string, error) {
	name := h.Name
	if h.Typeflag == tar.TypeDir {
		name = strings.TrimSuffix(name, "/")
	}

	switch {
	case !filepath.IsLocal(name) || path.Clean(name) != name:
		return "", malformed("the name %q leaves the volume or is not clean", h.Name)
	case (name == ".") != (len(u.dirs) == 0):
		return "", malformed("%q at its place: the volume's own directory comes first, once", h.Name)
	case name == "." && h.Typeflag != tar.TypeDir:
		return "", malformed("the volume is no directory")
	case name != "." && !u.dirs[path.Dir(name)]:
		return "", malformed("%q lies in no directory of the archive", h.Name)
	case u.dirs[name] || u.files[name] || u.links[name]:
		return "", malformed("%q is there twice", h.Name)
	case h.Mode&^0o7777 != 0 || h.Uid < 0 || h.Gid < 0:
		return "", malformed("%q has mode %o, owner %d:%d", h.Name, h.Mode, h.Uid, h.Gid)
	}
	return name, nil
}

func (u *unpacker) file(name string, h *tar.Header, content io.Reader) (err error) {
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return wrap(err)
	}

	defer func() {
		if cerr := f.Close(); err == nil {
			err = wrap(cerr)
		}
	}()

	if err := u.content(f, h.Size, content); err != nil {
		return err
	}

	// Owner before mode: a change of owner clears set-id bits.
	if err := f.Chown(h.Uid, h.Gid); err != nil {
		return wrap(err)
	}
	if err := f.Chmod(fileMode(h.Mode)); err != nil {
		return wrap(err)
	}

	return wrap(u.root.Chtimes(name, time.Time{}, h.ModTime))
}

// content writes the pages of a new file that are not all zeros.
func (u *unpacker) content(f *os.File, size int64, content io.Reader) error {
	buf := make([]byte, 16*pageSize)
	for at := int64(0); at < size; {
		part := buf[:min(int64(len(buf)), size-at)]
		if _, err := io.ReadFull(content, part); err != nil {
			return sourceError(err)
		}

		for page := range slices.Chunk(part, pageSize) {
			if !bytes.Equal(page, zeros[:len(page)]) {
				if err := u.meter.pages(uint64(len(page))); err != nil {
					return err
				}
				if _, err := f.WriteAt(page, at); err != nil {
					return wrap(err)
				}
			}
			at += int64(len(page))
		}
	}
	return wrap(f.Truncate(size)) // it may end with a hole
}

var zeros [pageSize]byte

// finish gives directories, deepest first, their modes, owners and times,
// which writing into them would have changed.
func (u *unpacker) finish() error {
	for _, h := range slices.Backward(u.order) {
		name := strings.TrimSuffix(h.Name, "/")
		// Mode before owner: without CAP_FSETID a foreign group's bit is lost.
		if err := u.root.Chmod(name, fileMode(h.Mode)); err != nil {
			return wrap(err)
		}
		if err := u.root.Chown(name, h.Uid, h.Gid); err != nil {
			return wrap(err)
		}
		if err := u.root.Chtimes(name, time.Time{}, h.ModTime); err != nil {
			return wrap(err)
		}
	}
	return nil
}

// fileMode maps the twelve mode bits of a tar header to Go's.
func fileMode(m int64) os.FileMode {
	mode := os.FileMode(m & 0o777)
	for bit, flag := range map[int64]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	return mode
}

func malformed(format string, args ...any) error {
	return problem.New(problem.Invalid, RuleArchive, "the volume's archive: "+format, args...).
		Fix("this snapshot was not made by a launcher: commit the volume again from an intact generation")
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("unpack volume: %w", err)
}

// sourceError keeps refusals of the snapshot as they are; what is left is an
// archive that tar can't read.
func sourceError(err error) error {
	if _, ok := errors.AsType[*problem.Error](err); ok {
		return err
	}
	return malformed("%w", err)
}
