package rebuild

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/rebuild/debian"
)

// Archive is one of the places in which a suite's packages are published.
type Archive struct {
	Folder   string // below the mirror's root: debian, debian-security
	Suite    string // below dists/
	Codename string // what the signed text must call itself
}

// InReleasePath is where the signed index is (Debian's repository format, Release files).
// It and PackagesPath are relative to the archive's folder.
func (a Archive) InReleasePath() string { return "dists/" + a.Suite + "/InRelease" }

// PackagesPath is the compressed list of the main component.
func (a Archive) PackagesPath(architecture string) string {
	return "dists/" + a.Suite + "/" + packagesName(architecture)
}

// packagesName is the list of the main component beside InRelease (Debian's repository
// format, Packages indices).
func packagesName(architecture string) string {
	return "main/binary-" + architecture + "/Packages.xz"
}

// Archives returns where the definition's packages come from: the release, its
// updates and its security fixes. All of them always count, so that nobody can
// hold a fix back by leaving its index out.
func (d *Definition) Archives() []Archive {
	all, err := archives(d.Suite)
	if err != nil {
		panic("a checked definition has a known suite: " + err.Error())
	}

	return all
}

// archives are the places of a suite.
func archives(suite string) ([]Archive, error) {
	if suite != "bookworm" {
		return nil, fmt.Errorf("suite %.40q: want bookworm, whose keys are known here", suite)
	}
	return []Archive{
		{"debian", "bookworm", "bookworm"},
		{"debian", "bookworm-updates", "bookworm-updates"},
		{"debian-security", "bookworm-security", "bookworm-security"},
	}, nil
}

// A Source hands out bytes by their hash. It is not trusted: what it returns is
// hashed again. A missing blob is an error of kind not_found.
type Source interface {
	Open(ctx context.Context, digest ident.Digest) (io.ReadCloser, error)
}

// piece is a blob that a source is asked for, and what messages call it.
type piece struct {
	what string
	Blob
}

// open returns the blob, in a file without a name below tempDir, after all of
// it was hashed: no parser ever sees a byte that is not the one asked for.
func open(ctx context.Context, src Source, tempDir string, b piece) (_ *os.File, err error) {
	r, err := src.Open(ctx, b.SHA256)
	if err != nil {
		if problem.KindOf(err) == problem.NotFound {
			return nil, problem.New(problem.NotFound, problem.RuleSourceMissing, "%s (sha256 %s) is not there: %w", b.what, b.SHA256, err).
				Fix("take the artifact that belongs to the lock (--from oci:REGISTRY), or a lock that belongs to the source")
		}
		return nil, fmt.Errorf("open %s: %w", b.what, err)
	}
	defer r.Close()

	f, err := os.CreateTemp(tempDir, "cupel-blob-")
	if err != nil {
		return nil, spaceError(err)
	}

	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()

	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}

	// One byte more than there shall be is enough to tell that there are more.
	h := newHash()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(contextReader{ctx, r}, b.Size+1))
	if err != nil {
		return nil, spaceError(fmt.Errorf("read %s: %w", b.what, err))
	}

	if got := h.digest(); n != b.Size || got != b.SHA256 {
		return nil, refused(problem.RuleSourceBytes, "%s: %d bytes with sha256 %s", b.what, n, got).
			Want("%d bytes with sha256 %s", b.Size, b.SHA256).
			Fix("the source handed out other bytes than it was asked for: take another source")
	}

	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}

	return f, nil
}

// contextReader ends reading with the context.
type contextReader struct {
	ctx context.Context // lives as long as the call that made it
	r   io.Reader
}

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}

	return c.r.Read(p)
}

// readAll reads a blob into memory, which may have so many bytes.
func readAll(ctx context.Context, src Source, tempDir string, b piece, limit int64) ([]byte, error) {
	if b.Size > limit {
		return nil, refused(ruleSourceSize, "%s: %d bytes", b.what, b.Size).Want("at most %d", limit)
	}

	r, err := open(ctx, src, tempDir, b)
	if err != nil {
		return nil, err
	}
	defer r.Close()

	return io.ReadAll(r)
}

// hasher is a SHA-256 with our type at its end.
type hasher struct {
	io.Writer
	sum func([]byte) []byte
}

// newHash begins a hash.
func newHash() hasher {
	h := sha256.New()
	return hasher{h, h.Sum}
}

// digest is the hash of all that was written.
func (h hasher) digest() (d ident.Digest) {
	h.sum(d[:0])
	return d
}

// indices verifies every index of the lock, from the signature down, and
// returns what they offer.
func (b Builder) indices(ctx context.Context, def *Definition, l *Lock, src Source) ([]*debian.Release, [][]debian.Package, error) {
	keyring := b.Keyring
	if keyring.IsZero() {
		var err error
		if keyring, err = debian.ArchiveKeyring(); err != nil {
			return nil, nil, err
		}
	}

	want := def.Archives()
	if len(l.Indices) != len(want) {
		return nil, nil, refused(ruleIndexMissing, "the lock names %d indices", len(l.Indices)).
			Want("%d: the release, its updates and its security fixes", len(want)).
			Fix("write a new lock with: cupel runtime build %s --update", def.Name)
	}

	var releases []*debian.Release
	var lists [][]debian.Package

	for i, a := range want {
		rel, list, err := b.index(ctx, keyring, lockedIndex{a, l.Indices[i], def.Architecture}, src)
		if err != nil {
			return nil, nil, err
		}

		releases = append(releases, rel)
		lists = append(lists, list)
	}

	return releases, lists, nil
}

// lockedIndex is an index of a lock, and the archive whose index belongs in its place.
type lockedIndex struct {
	archive Archive
	Index
	architecture string
}

// index returns one verified index, out of the memory if it was verified before.
func (b Builder) index(ctx context.Context, keyring debian.Keyring, x lockedIndex, src Source) (*debian.Release, []debian.Package, error) {
	if k, ok := b.Verified.get(x); ok {
		return k.release, k.packages, nil
	}

	rel, list, err := b.verifyIndex(ctx, keyring, x, src)
	if err != nil {
		return nil, nil, err
	}

	b.Verified.put(x, knownIndex{rel, list})
	return rel, list, nil
}

// Indices remembers verified indices by their hashes, so that resolving a lock
// and building from it reads them once. It belongs to one keyring. A nil one
// remembers nothing.
type Indices struct {
	mu    sync.Mutex
	known map[indexKey]knownIndex
}

// indexKey is all that a verdict over an index depends on.
type indexKey struct {
	archive             Archive
	inRelease, packages Blob
	date                int64 // nanoseconds
	architecture        string
}

// knownIndex is what a verified index says.
type knownIndex struct {
	release  *debian.Release
	packages []debian.Package
}

// key is the index's key in Indices.
func (x lockedIndex) key() indexKey {
	return indexKey{
		archive:      x.archive,
		inRelease:    x.InRelease,
		packages:     x.Packages,
		date:         x.Date.UnixNano(),
		architecture: x.architecture,
	}
}

// get returns what is remembered of an index.
func (i *Indices) get(x lockedIndex) (knownIndex, bool) {
	if i == nil || x.Suite != x.archive.Suite || x.Archive != x.archive.Folder {
		return knownIndex{}, false
	}
	i.mu.Lock()
	defer i.mu.Unlock()

	k, ok := i.known[x.key()]
	return k, ok
}

// put remembers a verified index.
func (i *Indices) put(x lockedIndex, k knownIndex) {
	if i == nil {
		return
	}

	i.mu.Lock()
	defer i.mu.Unlock()

	if i.known == nil {
		i.known = map[indexKey]knownIndex{}
	}
	i.known[x.key()] = k
}

// verifyIndex walks from the signature over the signed text to the list of packages: whether
// the index belongs here, who signed it, whether it is the one that the lock names, and
// whether the lock's list is the one that was signed for.
func (b Builder) verifyIndex(ctx context.Context, keyring debian.Keyring, x lockedIndex, src Source) (*debian.Release, []debian.Package, error) {
	a := x.archive
	arch := x.architecture
	if x.Suite != a.Suite || x.Archive != a.Folder ||
		x.InRelease.Path != a.InReleasePath() || x.Packages.Path != a.PackagesPath(arch) {
		return nil, nil, refused(ruleIndexIdentity, "the lock has %s/%s where %s/%s belongs", x.Archive, x.Suite, a.Folder, a.Suite).
			Want("the indices of the definition, in its order")
	}

	text, err := readAll(ctx, src, b.TempDir, piece{"InRelease of " + a.Suite, x.InRelease}, debian.MaxInRelease)
	if err != nil {
		return nil, nil, err
	}

	rel, err := debian.VerifyRelease(keyring, text)
	if err != nil {
		return nil, nil, refused(ruleIndexSignature, "%w", err).Want("a signature by one of Debian's archive keys").
			Fix("don't use this lock: somebody other than Debian wrote its index of %s", a.Suite)
	}

	if rel.Codename != a.Codename || !rel.Date.Equal(x.Date) {
		return nil, nil, refused(ruleIndexIdentity, "the index signed as %s of %s stands where the lock says %s of %s",
			rel.Codename, rel.Date.Format(time.RFC3339), a.Codename, x.Date.Format(time.RFC3339)).
			Want("the index that the lock names")
	}

	signed, ok := rel.Files[packagesName(arch)]
	if !ok || signed.SHA256 != x.Packages.SHA256 || signed.Size != x.Packages.Size {
		return nil, nil, refused(ruleIndexHash, "the lock's list of packages (sha256 %s) is not the one that Debian signed for %s", x.Packages.SHA256, a.Suite).
			Want("sha256 %s", signed.SHA256).Fix("don't use this lock")
	}

	b.observe(Check{ruleIndexSignature, fmt.Sprintf("%s of %s, signed by %s", a.Suite, rel.Date.Format(time.RFC3339), rel.Signer)})

	r, err := open(ctx, src, b.TempDir, piece{"package list of " + a.Suite, x.Packages})
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()

	list, err := debian.ReadPackages(contextReader{ctx, r}, arch)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, refused(ruleIndexFormat, "package list of %s: %w", a.Suite, err)
	}

	b.observe(Check{ruleIndexHash, fmt.Sprintf("%s: %d packages, as signed", a.Suite, len(list))})
	return rel, list, nil
}

// ResolveIndex reads an InRelease that was fetched now, checks its signature and
// that it may still be fetched, and returns the lock's entry for it; the caller
// fetches the list of packages by its hash. Build doesn't ask how long an index
// was valid: whoever fetched it in time can rebuild from it for ever.
func (b Builder) ResolveIndex(a Archive, arch string, inRelease []byte, now time.Time) (Index, error) {
	keyring := b.Keyring
	if keyring.IsZero() {
		var err error
		if keyring, err = debian.ArchiveKeyring(); err != nil {
			return Index{}, err
		}
	}

	rel, err := debian.VerifyRelease(keyring, inRelease)
	if err != nil {
		return Index{}, refused(ruleIndexSignature, "%w", err).Want("a signature by one of Debian's archive keys").
			Fix("the mirror serves an index that Debian did not sign: choose another with --mirror")
	}

	if rel.Codename != a.Codename {
		return Index{}, refused(ruleIndexIdentity, "the mirror serves %s as %s", rel.Codename, a.Suite)
	}

	if !rel.ValidUntil.IsZero() && now.After(rel.ValidUntil) {
		return Index{}, refused(ruleIndexExpired, "the mirror serves the index of %s of %s", a.Suite, rel.Date.Format(time.RFC3339)).
			Want("one that is still valid: that was until %s", rel.ValidUntil.Format(time.RFC3339)).
			Fix("the mirror is behind, or somebody holds security fixes back: choose another with --mirror, and check this machine's clock")
	}

	list, ok := rel.Files[packagesName(arch)]
	if !ok {
		return Index{}, refused(ruleIndexHash, "the index of %s lists no %s", a.Suite, packagesName(arch))
	}

	return Index{
		Archive:   a.Folder,
		Suite:     a.Suite,
		Date:      rel.Date,
		InRelease: Blob{a.InReleasePath(), ident.Sum(inRelease), int64(len(inRelease))},
		Packages:  Blob{a.PackagesPath(arch), list.SHA256, list.Size},
	}, nil
}

// ResolvePackages fills in the packages that the definition means under the
// lock's indices, whose bytes src has.
func (b Builder) ResolvePackages(ctx context.Context, def *Definition, l *Lock, src Source) error {
	_, lists, err := b.indices(ctx, def, l, src)
	if err != nil {
		return err
	}

	l.Packages, err = resolve(def, l, lists)
	return err
}

// resolve works out which packages the definition means, and which index offers each: of
// several that offer the same bytes, the first.
func resolve(def *Definition, l *Lock, lists [][]debian.Package) ([]Package, error) {
	chosen, err := debian.NewUniverse(lists...).Resolve(def.Packages, def.Exclude)
	if err != nil {
		return nil, invalid(rulePackagesUnresolved, "%w", err).
			Fix("correct packages and exclude in the definition of %s", def.Name)
	}

	offered := map[ident.Digest]string{}
	for i, list := range lists {
		for _, p := range list {
			if _, ok := offered[p.SHA256]; !ok {
				offered[p.SHA256] = l.Indices[i].Suite
			}
		}
	}

	out := make([]Package, len(chosen))
	for i, p := range chosen {
		out[i] = Package{
			Name:         p.Name,
			Version:      p.Version,
			Architecture: p.Architecture,
			Index:        offered[p.SHA256],
			Blob:         Blob{p.Path, p.SHA256, p.Size},
		}
	}

	return out, nil
}

// comparePackages refuses a lock that isn't what the definition means.
func comparePackages(def *Definition, l *Lock, want []Package, lists [][]debian.Package) error {
	locked := map[string]Package{}
	for _, p := range l.Packages {
		locked[p.Name] = p
	}

	wanted := map[string]bool{}
	for _, w := range want {
		wanted[w.Name] = true

		p, ok := locked[w.Name]
		if !ok {
			return refused(rulePackageMissing, "the lock leaves out %s", w.Name).Want("%s %s", w.Name, w.Version).
				Fix("write a new lock with: cupel runtime build %s --update", def.Name)
		}

		if p == w {
			continue
		}

		if !signedAs(p, lists) {
			return refused(rulePackageUnsigned, "%s %s (sha256 %s) is in none of Debian's signed indices", p.Name, p.Version, p.SHA256).
				Want("%s %s with sha256 %s", w.Name, w.Version, w.SHA256).
				Fix("don't use this lock: it was tampered with")
		}

		return refused(rulePackageOutdated, "%s %s (%s)", p.Name, p.Version, p.SHA256).
			Want("%s (%s), from the same signed indices", w.Version, w.SHA256).
			Fix("write a new lock with: cupel runtime build %s --update", def.Name)
	}

	for _, p := range l.Packages {
		if wanted[p.Name] {
			continue
		}

		if !signedAs(p, lists) {
			return refused(rulePackageUnsigned, "%s %s (sha256 %s) is in none of Debian's signed indices", p.Name, p.Version, p.SHA256).
				Fix("don't use this lock: it was tampered with")
		}
		return refused(rulePackageUnwanted, "the lock adds %s, which nothing in the definition depends on", p.Name).
			Fix("write a new lock with: cupel runtime build %s --update", def.Name)
	}

	return nil
}

// signedAs tells whether one of the indices has a package as a lock has it.
func signedAs(p Package, lists [][]debian.Package) bool {
	for _, list := range lists {
		for _, s := range list {
			if s.Name == p.Name && s.Version == p.Version && s.SHA256 == p.SHA256 && s.Size == p.Size {
				return true
			}
		}
	}

	return false
}
