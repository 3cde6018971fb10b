package registry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// maxManifest is how long a manifest may be that the library takes: as much as the OCI
// distribution specification asks of registries (pushing manifests).
const maxManifest = 4 << 20

// stored finds in the registry's folder what a disk or a hand damaged there. The library
// doesn't: it serves such a thing as it is, and stores nothing where something is.
type stored struct{ root string }

// blob is the path of a blob's bytes, which all repositories share.
func (s stored) blob(d ident.Digest) string {
	return filepath.Join(s.root, "blobs", "sha256", d.String()[:2], d.String(), "data")
}

// of is the path of something that one repository has.
func (s stored) of(repository string, rest ...string) string {
	return filepath.Join(append([]string{s.root, "repositories", repository}, rest...)...)
}

// layerLink is the path of the file by which a repository has a blob.
func (s stored) layerLink(repository string, d ident.Digest) string {
	return s.of(repository, "_layers", "sha256", d.String(), "link")
}

// revisionLink is the path of the file by which a repository has a manifest.
func (s stored) revisionLink(repository string, d ident.Digest) string {
	return s.of(repository, "_manifests", "revisions", "sha256", d.String(), "link")
}

// tagLink is the path of the file that says which manifest a tag is.
func (s stored) tagLink(repository, tag string) string {
	return s.of(repository, "_manifests", "tags", tag, "current", "link")
}

// read copies a file to w. Found is false where nothing is, and where something can't be
// read now, as with too many open files: it may be whole. An error is damage.
func read(path string, w io.Writer) (found bool, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return false, ofDisk(err)
	}

	if !info.Mode().IsRegular() {
		return false, fmt.Errorf("%s is no file", path)
	}

	f, err := os.Open(path)
	if err != nil {
		return false, ofDisk(err)
	}
	defer f.Close()

	_, err = io.Copy(w, f)
	return err == nil, ofDisk(err)
}

// ofDisk is an error by which a disk says that it lost something, or that a file is in a
// folder's place; nil for any other.
func ofDisk(err error) error {
	for _, damage := range []error{syscall.EIO, syscall.EUCLEAN, syscall.EBADMSG, syscall.ENOTDIR, syscall.ELOOP} {
		if errors.Is(err, damage) {
			return err
		}
	}

	return nil
}

// readBlob tells whether a blob is there, with the bytes that its digest says.
func readBlob(path string, want ident.Digest) (found bool, err error) {
	h := sha256.New()
	found, err = read(path, h)
	if found && ident.Digest(h.Sum(nil)) != want {
		return false, fmt.Errorf("%s has other bytes than were stored there", path)
	}

	return found, err
}

// readLink returns the digest that a file holds.
func readLink(path string) (d ident.Digest, found bool, err error) {
	var b bytes.Buffer
	if found, err = read(path, &b); !found {
		return d, false, err
	}

	if d, err = ident.ParseDigest(b.String()); err != nil {
		return d, false, fmt.Errorf("%s names no digest", path)
	}
	return d, true, nil
}

// readLinkTo is readLink of a file that has to hold this digest.
func readLinkTo(path string, want ident.Digest) error {
	got, found, err := readLink(path)

	if found && got != want {
		return fmt.Errorf("%s names another digest", path)
	}

	return err
}

// damage says what is damaged of what somebody asks for.
func (s stored) damage(repository, kind, name string) error {
	switch kind {
	case "manifests":
		return s.manifest(repository, name)
	case "blobs":
		return s.place(repository, name)
	}

	return nil
}

// manifest says what is damaged of the manifest that a tag or a digest names. What was
// never stored is the library's to say.
func (s stored) manifest(repository, name string) error {
	if !possible(repository, name) {
		return nil
	}
	d, err := ident.ParseDigest(name)
	if err != nil {
		var tagged bool
		if d, tagged, err = readLink(s.tagLink(repository, name)); !tagged {
			return err
		}
	}

	link := s.revisionLink(repository, d)
	_, linked, err := readLink(link)
	if err == nil {
		err = readLinkTo(link, d)
	}

	if err != nil || !linked {
		return err
	}

	there, err := readBlob(s.blob(d), d)
	if err == nil && !there {
		err = fmt.Errorf("%s is gone", s.blob(d))
	}

	return err
}

// uncollected says what is damaged where garbage can't be collected: what a tag leads to
// can't be told then, and so nothing is removed.
func (s stored) uncollected(err error) error {
	which := ""
	others := 0
	var first error

	root := s.of("")
	_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, walked error) error {
		repository, tag, ok := strings.Cut(strings.TrimPrefix(path, root+"/"), "/_manifests/tags/")

		if walked != nil || !ok || strings.Contains(tag, "/") {
			return nil
		}

		if damage := s.manifest(repository, tag); damage != nil {
			if first != nil {
				others++
				return nil
			}

			which = repository + ":" + tag
			first = damage
		}
		return nil
	})

	if first == nil {
		return fmt.Errorf("collect garbage: %w", err)
	}

	repository, _, _ := strings.Cut(which, ":")
	if others > 0 {
		which = fmt.Sprintf("%s (and %d more)", which, others)
	}

	return problem.New(problem.Unavailable, RuleDamaged, "what no tag leads to is kept, and fills the disk, while %s can't be read: %w", which, first).
		Want("manifests as they were stored").Fix("%s", mend(repository))
}

// place says what is damaged of a blob that shows without reading it: whoever gets it
// hashes it.
func (s stored) place(repository, name string) error {
	d, err := ident.ParseDigest(name)
	if err != nil || !possible(repository, name) {
		return nil
	}

	info, err := os.Lstat(s.blob(d))
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", s.blob(d))
	}

	return readLinkTo(s.layerLink(repository, d), d)
}

// clearBlob removes what is damaged of a blob, so that the library takes it anew.
func (s stored) clearBlob(repository, name string) error {
	d, err := ident.ParseDigest(name)
	if err != nil || !possible(repository, name) {
		return nil
	}

	_, damage := readBlob(s.blob(d), d)
	return errors.Join(
		removed(s.blob(d), damage),
		removed(s.layerLink(repository, d), readLinkTo(s.layerLink(repository, d), d)),
	)
}

// clearManifest removes what is damaged where a manifest comes, which it returns to be
// read again.
func (s stored) clearManifest(repository, name string, body io.ReadCloser) (io.ReadCloser, error) {
	b, err := io.ReadAll(io.LimitReader(body, maxManifest))
	again := struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(b), body), body}

	if err != nil || !possible(repository, name) {
		return again, nil // the library meets the error itself
	}

	d := ident.Sum(b)
	_, damage := readBlob(s.blob(d), d)
	err = errors.Join(
		removed(s.blob(d), damage),
		removed(s.revisionLink(repository, d), readLinkTo(s.revisionLink(repository, d), d)),
	)

	if _, parsed := ident.ParseDigest(name); parsed != nil {
		tag := s.tagLink(repository, name)
		index := s.of(repository, "_manifests", "tags", name, "index", "sha256", d.String(), "link")
		_, _, damage = readLink(tag)
		err = errors.Join(err, removed(tag, damage), removed(index, readLinkTo(index, d)))
	}

	return again, err
}

// removed removes what is damaged, and says so.
func removed(path string, damage error) error {
	if damage == nil {
		return nil
	}
	return errors.Join(damage, os.RemoveAll(path))
}

// Names of repositories and tags, as the OCI distribution specification has them (pulling
// manifests); a repository's stays short enough for a client to put a host before it.
var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// maxRepositoryName is how long a repository's name may be.
const maxRepositoryName = 255

// possible tells whether something may be stored under a request's names, which then stay
// in the folder. To others the library says what is wrong with them.
func possible(repository, name string) bool {
	if _, err := ident.ParseDigest(name); err != nil && !tagName.MatchString(name) {
		return false
	}
	return len(repository) <= maxRepositoryName && repositoryName.MatchString(repository)
}

// refuseDamaged answers a request for what is damaged: not with 404, after which nobody
// would look at the disk, and not with a status that clients try again.
func refuseDamaged(w http.ResponseWriter) {
	http.Error(w, `{"errors":[{"code":"DAMAGED","message":"what is stored here is not what was stored"}]}`, http.StatusGone)
}
