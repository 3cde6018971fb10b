package debian

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// Bounds on one .deb, far over what runtimes need.
const (
	maxEntries  = 200_000
	maxUnpacked = 4 << 30
	maxNameLen  = 4096
)

// Entry is one file, directory or link of a package's data archive.
type Entry struct {
	Path string // clean, relative, "" for the root
	Type byte   // tar.TypeReg, TypeDir, TypeSymlink or TypeLink
	Mode int64  // permission bits and sticky; never setuid or setgid
	Size int64
	Link string // a symbolic link's text, or a hard link's clean relative path
}

// ErrSpecial is returned for devices, sockets and FIFOs: no package that a
// runtime is made of ships any, and unpacking one needs rights.
var ErrSpecial = errors.New("device, FIFO or unknown entry")

// ReadDeb calls visit for each entry of a .deb's data archive, in its order;
// body has the content of regular files. Set-user-ID and set-group-ID bits are
// dropped: in an instance nothing may gain rights.
//
// A .deb is an ar archive of three members (deb(5), FORMAT): debian-binary, the format's
// version; control.tar, which nothing here reads; data.tar, either compressed or not.
//
// Check the hash of the bytes first: their header says how much memory their
// unpacking takes.
func ReadDeb(r io.Reader, visit func(e Entry, body io.Reader) error) error {
	br := bufio.NewReaderSize(r, 1<<16)
	magic := make([]byte, 8)
	if _, err := io.ReadFull(br, magic); err != nil || string(magic) != "!<arch>\n" {
		return errors.New("deb: not an ar archive")
	}

	want := []string{"debian-binary", "control.tar", "data.tar"}

	for i, prefix := range want {
		name, size, err := arMember(br)
		if err != nil {
			return fmt.Errorf("deb: %w", err)
		}

		if !strings.HasPrefix(name, prefix) {
			return fmt.Errorf("deb: member %q where %s was expected", name, prefix)
		}

		body := &io.LimitedReader{R: br, N: size}
		switch i {
		case 0:
			version := make([]byte, 4)
			if _, err := io.ReadFull(body, version); err != nil || string(version) != "2.0\n" || size != 4 {
				return errors.New("deb: format is not 2.0")
			}
		case 2:
			if err := readData(body, strings.TrimPrefix(name, prefix), visit); err != nil {
				return fmt.Errorf("deb: data archive: %w", err)
			}
		}

		if _, err := io.Copy(io.Discard, body); err != nil {
			return fmt.Errorf("deb: %w", err)
		}

		if body.N != 0 {
			return errors.New("deb: member is cut short")
		}

		// Members begin at even offsets. After the last one the filling may be missing.
		if size%2 == 1 {
			if _, err := br.Discard(1); err != nil && i < 2 {
				return fmt.Errorf("deb: %w", err)
			}
		}
	}

	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("deb: bytes after the data archive")
	}

	return nil
}

// arMember reads one 60-byte header of an ar archive (deb(5), FORMAT): 16 bytes of name,
// then time, owner, group and mode, of which nothing is used, 10 digits of size from byte
// 48 on, and a magic at the end.
func arMember(r io.Reader) (name string, size int64, err error) {
	h := make([]byte, 60)
	if _, err := io.ReadFull(r, h); err != nil {
		return "", 0, fmt.Errorf("ar header: %w", err)
	}
	if h[58] != '`' || h[59] != '\n' {
		return "", 0, errors.New("ar header: bad magic")
	}

	size, err = strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
	if err != nil || size < 0 {
		return "", 0, fmt.Errorf("ar header: size %q", h[48:58])
	}

	return strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/"), size, nil
}

// readData reads the data archive, by the compression that its name's suffix says.
func readData(r io.Reader, suffix string, visit func(Entry, io.Reader) error) error {
	switch suffix {
	case ".xz":
		x, err := xz.ReaderConfig{DictCap: lzma.MinDictCap}.NewReader(bufio.NewReaderSize(r, 1<<16))
		if err != nil {
			return err
		}
		r = x
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		r = z
	case "":
	default:
		return fmt.Errorf("compression %q is not known (want xz, gz or none)", suffix)
	}
	limited := &io.LimitedReader{R: r, N: maxUnpacked}

	t := tar.NewReader(limited)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}

		if err == nil && n == maxEntries {
			err = fmt.Errorf("more than %d entries", maxEntries)
		}
		if err != nil {
			return err
		}

		e, err := entry(h)
		if err != nil {
			return err
		}

		if err := visit(e, t); err != nil {
			return err
		}
	}

	// The compressed stream's own check follows the archive's end.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return err
	}

	if limited.N == 0 {
		return fmt.Errorf("more than %d bytes unpacked", int64(maxUnpacked))
	}

	return nil
}

// entry is a header of the tar archive as an Entry.
func entry(h *tar.Header) (Entry, error) {
	p, err := entryPath(h.Name)
	if err != nil {
		return Entry{}, err
	}

	e := Entry{Path: p, Type: h.Typeflag, Mode: h.Mode & 0o777}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Size = h.Size
	case tar.TypeDir:
		e.Mode = h.Mode & 0o1777
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxNameLen || strings.ContainsRune(h.Linkname, 0) {
			return Entry{}, fmt.Errorf("%s: link to %.80q", p, h.Linkname)
		}
		e.Link = h.Linkname
		e.Mode = 0o777
	case tar.TypeLink:
		if e.Link, err = entryPath(h.Linkname); err != nil {
			return Entry{}, fmt.Errorf("%s: hard link: %w", p, err)
		}
	default:
		return Entry{}, fmt.Errorf("%s: %w (type %q)", p, ErrSpecial, h.Typeflag)
	}

	if p == "" && e.Type != tar.TypeDir {
		return Entry{}, errors.New("the root is not a directory")
	}

	return e, nil
}

// entryPath makes "./a/b/" into "a/b" and refuses whatever is not as plain.
func entryPath(name string) (string, error) {
	p := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if p == "" || p == "." {
		return "", nil
	}

	if len(p) > maxNameLen || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("path %.80q", name)
	}

	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 255 {
			return "", fmt.Errorf("path %.80q leaves the package or is not clean", name)
		}
	}

	return p, nil
}
