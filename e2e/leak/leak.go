// Package leak searches what an operator can read for secrets: files, whatever
// they are packed in, and the arguments and environments of processes. A secret
// counts as found in any of the forms in which programs write bytes down: as
// they are, in hexadecimal, in base64 (wherever it begins in the encoded text)
// and URL-encoded.
//
// Layers (gzip, tar), git's packs and loose objects (zlib) are searched as they
// are and unpacked, one in the other to a small depth. Whoever searches plants
// incompressible secrets, and has a positive control: a search that finds
// nothing proves nothing by itself.
//
// A Searcher is safe for concurrent use once made. It trusts its caller and nothing that it
// reads. Begin with New and search in leak.go; database.go reads SQLite's values whole.
package leak

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxDepth bounds packed files in packed files.
const maxDepth = 4

// minSecret is the shortest secret that can be searched for without finding it
// by chance.
const minSecret = 16

// deltaEdge is how much of either end of a secret need not be in a delta that
// inserts it: where the first or last bytes happen to be what the base has in
// that place, the delta copies them from there.
const deltaEdge = 4

// Searcher knows secrets in all their forms.
type Searcher struct {
	needles []needle
	longest int
	delta   *Searcher // for what a delta inserts
}

// needle is a secret in one of its forms.
type needle struct {
	secret string // the secret's name
	form   string
	bytes  []byte
}

// Finding is a secret in a place.
type Finding struct {
	Secret string // name
	Form   string // raw, hex, base64, url
	Where  string // path, with what it was unpacked from
}

// String is the finding in a sentence.
func (f Finding) String() string { return fmt.Sprintf("%s (%s) in %s", f.Secret, f.Form, f.Where) }

// New returns a searcher for secrets by name.
func New(secrets map[string][]byte) (*Searcher, error) {
	s := &Searcher{}
	for name, b := range secrets {
		if len(b) < minSecret {
			return nil, fmt.Errorf("secret %s has %d bytes: too few to search for", name, len(b))
		}

		add := func(form string, forms ...string) {
			for _, f := range forms {
				s.needles = append(s.needles, needle{name, form, []byte(f)})
				s.longest = max(s.longest, len(f))
			}
		}

		add("raw", string(b))

		add("hex", hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)))

		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			// At each of three offsets the first and last characters depend on
			// the neighbours; what is between does not.
			for skip := range 3 {
				whole := e.EncodeToString(append(make([]byte, skip), b...))

				from := (skip*8 + 5) / 6
				to := (skip + len(b)) * 8 / 6
				add("base64", whole[from:to])
			}
		}

		add("url", url.QueryEscape(string(b)), url.PathEscape(string(b)), percent(b))
	}

	s.delta = &Searcher{longest: s.longest}
	for _, n := range s.needles {
		n.bytes = n.bytes[deltaEdge : len(n.bytes)-deltaEdge]
		s.delta.needles = append(s.delta.needles, n)
	}

	s.delta.delta = s.delta
	return s, nil
}

// percent encodes every byte.
func percent(b []byte) string {
	var out strings.Builder
	for _, c := range b {
		fmt.Fprintf(&out, "%%%02x", c)
	}
	return out.String()
}

// Tree searches every regular file below root, and the names of all files.
// Files that vanish meanwhile are skipped; one that can't be read is an error.
func (s *Searcher) Tree(root string) ([]Finding, error) {
	var found []Finding
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}

		if err != nil {
			return err
		}

		found = append(found, s.match([]byte(path), "the name of "+path)...)
		if target, err := os.Readlink(path); err == nil {
			found = append(found, s.match([]byte(target), "the link "+path)...)
		}

		if !d.Type().IsRegular() {
			return nil
		}

		more, err := s.File(path)
		found = append(found, more...)
		if errors.Is(err, syscall.EINVAL) && isNamespace(path) {
			return nil
		}

		return err
	})

	return found, err
}

// isNamespace tells whether a file is a mounted kernel namespace, which looks
// regular and has no content.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// File searches one file, packed or not.
func (s *Searcher) File(path string) ([]Finding, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return s.Reader(f, path)
}

// Reader searches a stream, packed or not.
func (s *Searcher) Reader(r io.Reader, where string) ([]Finding, error) {
	return s.search(r, where, 0)
}

// Processes searches the arguments and environments of all processes on the
// machine that may be read, but for those that skip names.
func (s *Searcher) Processes(skip func(pid string) bool) ([]Finding, error) {
	var found []Finding
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}

	for _, dir := range dirs {
		if skip(filepath.Base(dir)) {
			continue
		}

		for _, name := range []string{"cmdline", "environ"} {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err != nil {
				continue // it ended
			}

			program, _ := os.ReadFile(filepath.Join(dir, "comm"))
			found = append(found, s.match(data, fmt.Sprintf("%s (%s)", path, bytes.TrimSpace(program)))...)
		}
	}

	return found, nil
}

// search looks through a stream as it is and, if it is packed, unpacked.
func (s *Searcher) search(r io.Reader, where string, depth int) ([]Finding, error) {
	in := bufio.NewReaderSize(r, 64<<10)

	head, err := in.Peek(headSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", where, err)
	}

	unpack := unpacker(head)
	if unpack == nil || depth >= maxDepth {
		return s.scan(in, where)
	}

	// Both at once: the unpacker reads what the scan has read.
	pr, pw := io.Pipe()
	type result struct {
		found []Finding
		err   error
	}

	inner := make(chan result, 1)
	go func() {
		f, err := unpack(s, bufio.NewReader(pr), where, depth+1)
		// What begins like a packed file and isn't one was scanned as it is.
		_, _ = io.Copy(io.Discard, pr)
		inner <- result{f, err}
	}()

	found, err := s.scan(io.TeeReader(in, pw), where)
	_ = pw.Close()
	got := <-inner

	return unique(append(found, got.found...)), errors.Join(err, got.err)
}

// headSize is how much of a stream tells what it is: a tar's first block.
const headSize = 512

// unpackFunc searches what is packed in a stream.
type unpackFunc func(s *Searcher, in *bufio.Reader, where string, depth int) ([]Finding, error)

// unpacker tells by its first bytes what a stream is packed with; nil: it isn't. They are of
// gzip (RFC 1952 section 2.3.1), git's packs (gitformat-pack(5)), tar (POSIX ustar) and zlib
// (RFC 1950 section 2.2).
func unpacker(head []byte) unpackFunc {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return (*Searcher).gzip
	case bytes.HasPrefix(head, []byte("PACK")):
		return (*Searcher).pack
	case len(head) == headSize && bytes.HasPrefix(head[257:], []byte("ustar")):
		return (*Searcher).tar
	case len(head) >= 2 && head[0]&0x0f == 8 && (uint(head[0])<<8|uint(head[1]))%31 == 0:
		return (*Searcher).zlib
	}
	return nil
}

// gzip searches what a gzip stream holds.
func (s *Searcher) gzip(in *bufio.Reader, where string, depth int) ([]Finding, error) {
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, nil
	}
	return s.search(lenient{z}, where+" (gzip)", depth)
}

// zlib searches what a zlib stream holds.
func (s *Searcher) zlib(in *bufio.Reader, where string, depth int) ([]Finding, error) {
	z, err := zlib.NewReader(in)
	if err != nil {
		return nil, nil
	}
	return s.search(lenient{z}, where+" (zlib)", depth)
}

// tar searches the packed files in an archive; the others were searched with the
// archive as it is.
func (s *Searcher) tar(in *bufio.Reader, where string, depth int) ([]Finding, error) {
	var found []Finding
	archive := tar.NewReader(in)
	file := bufio.NewReaderSize(nil, 64<<10)
	for {
		h, err := archive.Next()
		if err != nil {
			return found, nil // its end, or damage
		}

		file.Reset(lenient{archive})
		if head, _ := file.Peek(headSize); unpacker(head) == nil {
			continue
		}

		f, err := s.search(file, fmt.Sprintf("%s (%s)", where, h.Name), depth)
		found = append(found, f...)
		if err != nil {
			return found, err
		}
	}
}

// pack searches a git pack (gitformat-pack(5)): objects one after the other,
// each a header and a zlib stream. Of a delta, what it inserts is searched.
func (s *Searcher) pack(in *bufio.Reader, where string, depth int) ([]Finding, error) {
	if _, err := in.Discard(12); err != nil { // magic, version, count
		return nil, nil
	}

	var found []Finding

	for n := 0; ; n++ {
		kind, err := packHeader(in)
		if err != nil {
			return found, nil // the end, or the checksum that looks like no object
		}

		if err := skipBase(in, kind); err != nil {
			return found, nil
		}

		z, err := zlib.NewReader(in)
		if err != nil {
			return found, nil
		}

		searcher := s
		if kind == offsetDelta || kind == refDelta {
			searcher = s.delta
		}

		f, err := searcher.search(lenient{z}, fmt.Sprintf("%s (object %d)", where, n), depth)
		found = append(found, f...)
		if err != nil {
			return found, err
		}

		if _, err := io.Copy(io.Discard, z); err != nil {
			return found, nil
		}
	}
}

// packHeader reads an object's type, and passes over its size (gitformat-pack(5)).
func packHeader(in *bufio.Reader) (kind byte, err error) {
	b, err := in.ReadByte()

	kind = b >> 4 & 7
	for err == nil && b&0x80 != 0 {
		b, err = in.ReadByte()
	}

	return kind, err
}

// Types of objects in a pack that are deltas.
const offsetDelta, refDelta = 6, 7

// skipBase passes over what a delta says about its base.
func skipBase(in *bufio.Reader, kind byte) error {
	switch kind {
	case offsetDelta:
		for {
			if b, err := in.ReadByte(); err != nil || b&0x80 == 0 {
				return err
			}
		}
	case refDelta:
		_, err := in.Discard(20)
		return err
	}

	return nil
}

// lenient takes damage for the end: what was unpacked until then is searched.
type lenient struct{ r io.Reader }

// Read implements io.Reader.
func (l lenient) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

// scan searches a stream as it is, in bounded memory.
func (s *Searcher) scan(r io.Reader, where string) ([]Finding, error) {
	buf := make([]byte, 1<<20+s.longest)
	var found []Finding
	kept := 0

	for {
		n, err := io.ReadFull(r, buf[kept:])
		found = append(found, s.match(buf[:kept+n], where)...)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return unique(found), nil
		}

		if err != nil {
			return unique(found), fmt.Errorf("read %s: %w", where, err)
		}

		// A secret may lie across two pieces.
		kept = copy(buf, buf[kept+n-s.longest:kept+n])
	}
}

// match looks for all secrets in bytes, as they are.
func (s *Searcher) match(data []byte, where string) []Finding {
	var found []Finding
	for _, n := range s.needles {
		if bytes.Contains(data, n.bytes) {
			found = append(found, Finding{n.secret, n.form, where})
		}
	}

	return unique(found)
}

// unique keeps one of each finding.
func unique(f []Finding) []Finding {
	slices.SortFunc(f, func(a, b Finding) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(f)
}
