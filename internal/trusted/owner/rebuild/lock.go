package rebuild

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"time"

	"go.yaml.in/yaml/v4"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// MaxLock is the most bytes of a lock file that are read.
const MaxLock = 4 << 20

// Lock is the file runtimes/NAME.lock: every byte that a build reads, by hash.
type Lock struct {
	Version      int          `yaml:"version"` // 1
	Runtime      string       `yaml:"runtime"`
	Definition   ident.Digest `yaml:"definition"` // Definition.Digest of what was resolved
	Suite        string       `yaml:"suite"`
	Architecture string       `yaml:"architecture"`

	// Artifact is where a registry keeps all these bytes. It locates, it proves
	// nothing.
	Artifact Ref       `yaml:"artifact,omitempty"`
	Indices  []Index   `yaml:"indices"`
	Packages []Package `yaml:"packages"` // by name
}

// OldestMoving returns the older of a lock's security and update indices. The
// release itself is dated by its last point release; the indices that move are
// what tells how fresh the packages are.
func (l *Lock) OldestMoving() (oldest Index, ok bool) {
	for _, x := range l.Indices {
		if x.Suite != l.Suite && (!ok || x.Date.Before(oldest.Date)) {
			oldest = x
			ok = true
		}
	}

	return oldest, ok
}

// Index is one signed index of packages.
type Index struct {
	Archive   string    `yaml:"archive"` // debian or debian-security: the mirror's folder
	Suite     string    `yaml:"suite"`   // bookworm, bookworm-updates, bookworm-security
	Date      time.Time `yaml:"date"`    // as the signed text says
	InRelease Blob      `yaml:"in_release"`
	Packages  Blob      `yaml:"packages"`
}

// Blob is bytes by their hash, with the path at which a mirror has them (or
// had: indices move on).
type Blob struct {
	Path   string       `yaml:"path"` // relative to the archive
	SHA256 ident.Digest `yaml:"sha256"`
	Size   int64        `yaml:"size"`
}

// Package is one .deb.
type Package struct {
	Name         string `yaml:"name"`
	Version      string `yaml:"version"`
	Architecture string `yaml:"architecture"`
	Index        string `yaml:"index"` // the suite of the index that offers it
	Blob         `yaml:",inline"`
}

// ParseLock reads a lock strictly. What it says is checked by Build.
func ParseLock(text []byte) (*Lock, error) {
	l := &Lock{}
	err := decodeStrict(text, MaxLock, l)
	if err == nil {
		err = l.check()
	}
	if err != nil {
		return nil, invalid(problem.RuleRuntimeLock, "%w", err).Fix("write a new lock with: cupel runtime build NAME --update")
	}

	return l, nil
}

// Encode writes the lock; equal locks give equal bytes.
func (l *Lock) Encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Written by `cupel runtime build`. Every byte of the image, by hash:\n" +
		"# check it with `cupel runtime measure NAME --lock THIS-FILE`.\n")

	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(l); err != nil {
		return nil, fmt.Errorf("encode lock: %w", err)
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("encode lock: %w", err)
	}

	return b.Bytes(), nil
}

// Blobs lists everything that a build from this lock opens, with the folder of
// a mirror that has it.
func (l *Lock) Blobs() []MirrorBlob {
	var all []MirrorBlob
	folder := map[string]string{} // of each suite

	for _, x := range l.Indices {
		folder[x.Suite] = x.Archive
		all = append(all, MirrorBlob{x.Archive, x.InRelease}, MirrorBlob{x.Archive, x.Packages})
	}

	for _, p := range l.Packages {
		all = append(all, MirrorBlob{folder[p.Index], p.Blob})
	}

	return all
}

// MirrorBlob is a Blob and the archive that it is in.
type MirrorBlob struct {
	Archive string
	Blob
}

// Ref is where a registry keeps an image or an artifact: REPOSITORY:TAG, as the OCI
// distribution specification names both (pulling manifests).
type Ref string

var artifactRef = regexp.MustCompile(`^[a-z0-9]+([._/-][a-z0-9]+)*:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// check refuses a lock that isn't made like one; it says nothing about what it names.
func (l *Lock) check() error {
	if l.Version != 1 {
		return fmt.Errorf("version %d: want 1", l.Version)
	}

	if _, err := ParseName(l.Runtime); err != nil {
		return err
	}

	if l.Artifact != "" && (len(l.Artifact) > 255 || !artifactRef.MatchString(string(l.Artifact))) {
		return fmt.Errorf("artifact %.80q: want REPOSITORY:TAG", l.Artifact)
	}

	if len(l.Indices) == 0 || len(l.Packages) == 0 {
		return errors.New("no indices or no packages")
	}

	for i, x := range l.Indices {
		for _, b := range []Blob{x.InRelease, x.Packages} {
			if err := b.check(); err != nil {
				return fmt.Errorf("index %d: %w", i+1, err)
			}
		}
	}

	for i, p := range l.Packages {
		if i > 0 && l.Packages[i-1].Name >= p.Name {
			return fmt.Errorf("package %.80q: want each package once, sorted by name", p.Name)
		}

		if err := p.check(); err != nil {
			return fmt.Errorf("package %.80q: %w", p.Name, err)
		}
	}

	return nil
}

var mirrorPath = regexp.MustCompile(`^[A-Za-z0-9+~_-][A-Za-z0-9.+~_:-]*(/[A-Za-z0-9+~_-][A-Za-z0-9.+~_:-]*)*$`)

// check refuses a blob without size, hash or a path that stays below a mirror's root.
func (b Blob) check() error {
	if b.Size <= 0 || b.Size > 8<<30 || b.SHA256.IsZero() {
		return fmt.Errorf("size %d, sha256 %s: want both", b.Size, b.SHA256)
	}

	if len(b.Path) > 1024 || !mirrorPath.MatchString(b.Path) {
		return fmt.Errorf("path %.80q: want a plain relative path", b.Path)
	}
	return nil
}
