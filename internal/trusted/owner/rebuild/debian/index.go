package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"cupel.dev/cupel/api/ident"
)

// Bounds on a Packages index: Debian's largest has 50 MB and 64,000 packages.
const (
	MaxPackages = 512 << 20 // bytes, unpacked
	maxLine     = 1 << 20
	maxStanzas  = 500_000
)

// Package is one entry of a Packages index (Debian's repository format, Packages indices).
type Package struct {
	Name         string
	Version      string
	Architecture string
	SHA256       ident.Digest
	Size         int64
	Path         string // in the archive: pool/main/…
	Depends      string // Pre-Depends and Depends
	Provides     string
}

var (
	// packageName and versionText are of the characters that Debian Policy allows (sections
	// 5.6.7 and 5.6.12).
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,127}$`)
	versionText = regexp.MustCompile(`^[A-Za-z0-9.+~:-]{1,128}$`)
)

// ParsePackageName checks that s may name a package.
func ParsePackageName(s string) (string, error) {
	if !packageName.MatchString(s) {
		return "", fmt.Errorf("package name %.80q", s)
	}
	return s, nil
}

// ReadPackages reads an xz-compressed Packages index and returns its entries
// for the architecture (and "all"). Like ReadDeb, it wants bytes whose hash was
// checked.
func ReadPackages(r io.Reader, architecture string) ([]Package, error) {
	x, err := xz.ReaderConfig{DictCap: lzma.MinDictCap}.NewReader(bufio.NewReaderSize(r, 1<<16))
	if err != nil {
		return nil, fmt.Errorf("packages index: %w", err)
	}

	return ParsePackages(io.LimitReader(x, MaxPackages+1), architecture)
}

// ParsePackages reads an unpacked Packages index: stanzas of fields, parted by empty lines
// (deb822(5), FORMAT).
func ParsePackages(r io.Reader, architecture string) ([]Package, error) {
	var (
		all   []Package
		lines = bufio.NewScanner(r)
		p     stanza
		total int64
	)

	lines.Buffer(make([]byte, 1<<16), maxLine)

	flush := func() error {
		if len(p.seen) == 0 {
			return nil
		}

		done, err := p.finish()
		if err != nil {
			return err
		}

		if done.Architecture == architecture || done.Architecture == "all" {
			all = append(all, done)
		}

		p = stanza{}
		if len(all) > maxStanzas {
			return fmt.Errorf("packages index: more than %d packages", maxStanzas)
		}

		return nil
	}

	for lines.Scan() {
		line := lines.Bytes()
		total += int64(len(line)) + 1
		if total > MaxPackages {
			return nil, fmt.Errorf("packages index: more than %d bytes", MaxPackages)
		}

		switch {
		case len(line) == 0:
			if err := flush(); err != nil {
				return nil, err
			}
		case line[0] == ' ' || line[0] == '\t': // continues a field that we don't read
			if p.wanted {
				return nil, fmt.Errorf("packages index: %q: folded field", p.Name)
			}
		default:
			if err := p.add(line); err != nil {
				return nil, err
			}
		}
	}

	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("packages index: %w", err)
	}

	return all, flush()
}

// stanza gathers one package's fields.
type stanza struct {
	Package
	preDepends string
	seen       map[string]bool
	wanted     bool // the field just read is one of ours
}

// add reads one field; one that is there already, or has no colon, is refused.
func (p *stanza) add(line []byte) error {
	name, value, ok := strings.Cut(string(line), ":")
	if !ok {
		return fmt.Errorf("packages index: line %.80q is no field", line)
	}

	if p.seen == nil {
		p.seen = map[string]bool{}
	}

	if p.seen[name] {
		return fmt.Errorf("packages index: %q: field %.80q twice", p.Name, name)
	}

	p.seen[name] = true
	p.wanted = true
	value = strings.TrimSpace(value)
	var err error

	switch name {
	case "Package":
		p.Name = value
	case "Version":
		p.Version = value
	case "Architecture":
		p.Architecture = value
	case "Filename":
		p.Path = value
	case "Depends":
		p.Depends = value
	case "Pre-Depends":
		p.preDepends = value
	case "Provides":
		p.Provides = value
	case "SHA256":
		p.SHA256, err = ident.ParseDigest(value)
	case "Size":
		p.Size, err = strconv.ParseInt(value, 10, 64)
		if err == nil && p.Size < 0 {
			err = errors.New("negative size")
		}
	default:
		p.wanted = false
	}

	if err != nil {
		return fmt.Errorf("packages index: %q: %w", p.Name, err)
	}

	return nil
}

// finish checks that a package has all that is needed of it. Pre-Depends are dependencies
// like others here: nothing is configured in an order.
func (p *stanza) finish() (Package, error) {
	done := p.Package

	if p.preDepends != "" {
		done.Depends = p.preDepends
		if p.Depends != "" {
			done.Depends += ", " + p.Depends
		}
	}

	switch {
	case !packageName.MatchString(done.Name):
		return done, fmt.Errorf("packages index: package name %.80q", done.Name)
	case !versionText.MatchString(done.Version):
		return done, fmt.Errorf("packages index: %s: version %.80q", done.Name, done.Version)
	case done.Architecture == "" || done.SHA256.IsZero() || !p.seen["Size"]:
		return done, fmt.Errorf("packages index: %s: Architecture, SHA256 or Size is missing", done.Name)
	case !cleanPath(done.Path):
		return done, fmt.Errorf("packages index: %s: path %.80q", done.Name, done.Path)
	}

	return done, nil
}

// cleanPath accepts relative paths that stay where they are put.
func cleanPath(p string) bool {
	return p != "" && p != "." && len(p) < 1024 && p == path.Clean(p) && p[0] != '/' &&
		p != ".." && !strings.HasPrefix(p, "../") && !strings.ContainsAny(p, "\x00\r\n\\?#%")
}
