package volume

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"cupel.dev/cupel/api/problem"
)

// Pack writes the tree under root to w as a tar archive: PAX headers, names
// sorted, parents before children, numeric owners, times in nanoseconds, hard
// links to the first name. Equal trees give equal bytes. Extended attributes
// are not kept; sockets and pipes, which are nothing without their processes,
// are left out; devices are refused. Holes are written as the zeros that they
// read as. A tree that costs more than limit bytes of memory is refused as too
// large before its first byte that would exceed.
//
// Nothing may change the tree meanwhile.
func Pack(ctx context.Context, root *os.Root, w io.Writer, limit uint64) error {
	tw := tar.NewWriter(w)
	_, err := walk(ctx, root, limit, func(name string, info fs.FileInfo, link string) error {
		return packEntry(tw, root, name, info, link)
	})
	if err != nil {
		return err
	}

	if err := tw.Close(); err != nil {
		return fmt.Errorf("pack volume: %w", err)
	}
	return nil
}

// Measure returns what the tree under root costs in memory; it refuses what Pack
// would refuse, without writing anything.
func Measure(ctx context.Context, root *os.Root, limit uint64) (Size, error) {
	return walk(ctx, root, limit, func(string, fs.FileInfo, string) error { return nil })
}

// measure accounts for an entry; link says that its content was there before.
func (m *meter) measure(info fs.FileInfo, link string) error {
	if info.Mode()&fs.ModeSymlink != 0 {
		return m.symlink(info.Size())
	}
	if !info.Mode().IsRegular() || link != "" {
		return m.entry(0)
	}

	if err := m.entry(info.Size()); err != nil {
		return err
	}

	content := uint64(info.Size())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		content = min(content, uint64(st.Blocks)*512)
	}
	return m.pages(content)
}

type inode struct{ dev, ino uint64 }

// walk calls visit for every entry, sorted, parents first. Link is the first
// name of a hard-linked file that was visited before. It returns what all cost.
func walk(ctx context.Context, root *os.Root, limit uint64, visit func(name string, info fs.FileInfo, link string) error) (Size, error) {
	m := meter{limit: limit}
	first := map[inode]string{}

	var entry func(name string) error
	entry = func(name string) error {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("pack volume: %w", err)
		}
		info, err := root.Lstat(name)
		if err != nil {
			return fmt.Errorf("pack volume: %w", err)
		}

		switch t := info.Mode().Type(); {
		case t&(fs.ModeSocket|fs.ModeNamedPipe) != 0:
			return nil
		case t&(fs.ModeDevice|fs.ModeCharDevice|fs.ModeIrregular) != 0:
			return problem.New(problem.Invalid, RuleArchive, "%q in the volume is a device", name).
				Fix("remove it: a volume holds files, directories and links")
		}

		link := firstName(first, name, info)
		if err := m.measure(info, link); err != nil {
			return err
		}

		if err := visit(name, info, link); err != nil || !info.IsDir() {
			return err
		}
		names, err := readNames(root, name)
		if err != nil {
			return err
		}

		for _, n := range names {
			if name != "." {
				n = name + "/" + n
			}
			if err := entry(n); err != nil {
				return err
			}
		}
		return nil
	}

	err := entry(".")
	return m.Size, err
}

// firstName remembers files with several names and returns the earlier one.
func firstName(first map[inode]string, name string, info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || st.Nlink < 2 {
		return ""
	}

	key := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // the width differs between architectures
	if link, ok := first[key]; ok {
		return link
	}

	first[key] = name
	return ""
}

func readNames(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("pack volume: %w", err)
	}
	defer f.Close()

	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("pack volume: %w", err)
	}

	slices.Sort(names)
	return names, nil
}

func packEntry(tw *tar.Writer, root *os.Root, name string, info fs.FileInfo, link string) error {
	h, err := tarHeader(root, name, info, link)
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("pack volume: %w", err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}

	f, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("pack volume: %w", err)
	}
	defer f.Close()
	if _, err := io.CopyN(tw, f, h.Size); err != nil {
		return fmt.Errorf("pack volume: read %q: %w", name, err)
	}
	return nil
}

func tarHeader(root *os.Root, name string, info fs.FileInfo, link string) (*tar.Header, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("pack volume: no owner of %q", name)
	}

	h := &tar.Header{
		Format:   tar.FormatPAX,
		Typeflag: tar.TypeReg,
		Name:     name,
		Size:     info.Size(),
		Mode:     int64(st.Mode & 0o7777),
		Uid:      int(st.Uid),
		Gid:      int(st.Gid),
		ModTime:  time.Unix(0, info.ModTime().UnixNano()).UTC(),
	}

	switch {
	case info.IsDir():
		h.Typeflag = tar.TypeDir
		h.Size = 0
		h.Name = strings.TrimSuffix(name, "/") + "/"
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := root.Readlink(name)
		if err != nil {
			return nil, fmt.Errorf("pack volume: %w", err)
		}
		h.Typeflag = tar.TypeSymlink
		h.Size = 0
		h.Linkname = target
		h.ModTime = time.Unix(0, 0).UTC() // nobody asks a symbolic link for its age
	case link != "":
		h.Typeflag = tar.TypeLink
		h.Size = 0
		h.Linkname = link
	}

	return h, nil
}
