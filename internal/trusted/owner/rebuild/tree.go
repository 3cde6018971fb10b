package rebuild

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/pem"
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
	"cupel.dev/cupel/internal/trusted/owner/rebuild/debian"
)

// Users that an image may run as; app has the same user and group ID.
const (
	userApp  = "app"
	userRoot = "root"
	appID    = 1000

	maxTree = 8 << 30 // bytes of content in one image
)

// tree is the root file system in the making: names in memory, contents in one
// spool file.
type tree struct {
	nodes map[string]*node // by clean relative path; the root is ""
	spool *os.File
	size  int64
	drop  []string // clean relative paths
	links int      // inode numbers given out
}

// node is one file, directory or symbolic link.
type node struct {
	kind     byte // tar.TypeReg, TypeDir, TypeSymlink
	mode     int64
	owner    int    // uid and gid
	link     string // what a symbolic link says
	off, len int64  // of a file's content in the spool
	inode    int    // same number: hard links of each other; 0: none
	from     string // the package, or what else brought it
	implied  bool   // a directory that nothing named yet
}

// What brought a node that no package did.
const (
	fromRebuild    = "rebuild"
	fromDefinition = "the definition"
)

// symlink is a symbolic link, whose mode counts for nothing.
func symlink(to, from string) *node {
	return &node{
		kind: tar.TypeSymlink,
		mode: 0o777,
		link: to,
		from: from,
	}
}

// newTree begins with the root alone.
func newTree(spool *os.File, drop []string) *tree {
	t := &tree{nodes: map[string]*node{"": {kind: tar.TypeDir, mode: 0o755}}, spool: spool}

	for _, d := range drop {
		t.drop = append(t.drop, merged(strings.TrimPrefix(d, "/")))
	}

	return t
}

// merged moves the old top-level folders into /usr, where Debian 12 has them (package
// usrmerge).
func merged(p string) string {
	first, _, _ := strings.Cut(p, "/")
	if slices.Contains(mergedFolders, first) {
		return "usr/" + p
	}

	return p
}

var mergedFolders = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// dropped says whether p is left out. Copyright files stay: licences ask for it.
func (t *tree) dropped(p string) bool {
	if strings.HasPrefix(p, "usr/share/doc/") && path.Base(p) == "copyright" {
		return false
	}

	return slices.ContainsFunc(t.drop, func(d string) bool { return p == d || strings.HasPrefix(p, d+"/") }) || volatile(p)
}

// volatile files differ from build to build or machine to machine.
func volatile(p string) bool {
	return p == "etc/ld.so.cache" || path.Base(p) == "__pycache__" || strings.Contains(p, "/__pycache__/") ||
		strings.HasPrefix(p, "var/cache/") || strings.HasPrefix(p, "var/log/") || strings.HasPrefix(p, "var/lib/apt/")
}

// add puts one entry of a package into the tree.
func (t *tree) add(from string, e debian.Entry, body io.Reader) error {
	p := merged(e.Path)

	if t.dropped(p) {
		return nil
	}

	n := &node{
		kind: e.Type,
		mode: e.Mode,
		link: e.Link,
		from: from,
	}

	switch e.Type {
	case tar.TypeSymlink:
		if p == "usr/"+e.Path && "usr/"+e.Path == e.Link { // bin -> usr/bin: ours already
			return nil
		}
	case tar.TypeLink:
		target, ok := t.nodes[merged(e.Link)]
		if !ok || target.kind != tar.TypeReg || target.from != from {
			return fmt.Errorf("/%s: hard link to /%s, which is no file of the same package", p, e.Link)
		}
		c := *target

		if c.inode == 0 {
			t.links++
			c.inode = t.links
			target.inode = t.links
		}
		n = &c
	case tar.TypeReg:
		if err := t.write(n, body); err != nil {
			return fmt.Errorf("/%s: %w", p, err)
		}
	}

	return t.put(p, n)
}

// write spools a content.
func (t *tree) write(n *node, body io.Reader) error {
	n.off = t.size

	w := &io.LimitedReader{R: body, N: maxTree - t.size + 1}
	size, err := io.Copy(io.NewOffsetWriter(t.spool, t.size), w)
	if err != nil {
		return err
	}

	t.size += size
	if t.size > maxTree {
		return fmt.Errorf("the image has more than %d bytes", int64(maxTree))
	}

	n.len = size
	return nil
}

// put enters a node; directories may come twice, everything else once.
func (t *tree) put(p string, n *node) error {
	if err := t.parents(p); err != nil {
		return err
	}

	old, ok := t.nodes[p]
	switch {
	case !ok, old.kind == tar.TypeDir && n.kind == tar.TypeDir && old.implied:
		t.nodes[p] = n
	case old.kind == tar.TypeDir && n.kind == tar.TypeDir: // the first package's mode stays
	case old.kind == tar.TypeSymlink && n.kind == tar.TypeSymlink && old.link == n.link:
	default:
		return fmt.Errorf("/%s is in %s and in %s: %w", p, old.from, n.from, errConflict)
	}

	return nil
}

// errConflict is of a path that two packages have, other than as a directory.
var errConflict = errors.New("two packages own one path")

// parents makes sure that p lies in directories: nothing is ever put through a
// symbolic link, which could lead anywhere.
func (t *tree) parents(p string) error {
	for i := range p {
		if p[i] != '/' {
			continue
		}

		switch up, ok := t.nodes[p[:i]]; {
		case !ok:
			t.nodes[p[:i]] = &node{kind: tar.TypeDir, mode: 0o755, implied: true}
		case up.kind != tar.TypeDir:
			return fmt.Errorf("/%s lies below /%s, which is not a directory", p, p[:i])
		}
	}

	return nil
}

// replace enters a node in place of whatever a package put there.
func (t *tree) replace(p string, n *node) error {
	if err := t.parents(p); err != nil {
		return err
	}

	if old, ok := t.nodes[p]; ok && old.kind == tar.TypeDir && n.kind != tar.TypeDir {
		return fmt.Errorf("/%s is a directory", p)
	}

	t.nodes[p] = n
	return nil
}

// file enters a file with a content of our own.
func (t *tree) file(p string, mode int64, content string) error {
	n := &node{kind: tar.TypeReg, mode: mode, from: fromDefinition}
	if err := t.write(n, strings.NewReader(content)); err != nil {
		return err
	}

	return t.replace(p, n)
}

// unpack adds all packages of the lock.
func (t *tree) unpack(ctx context.Context, l *Lock, src Source) error {
	for _, p := range l.Packages {
		r, err := open(ctx, src, filepath.Dir(t.spool.Name()), piece{p.Name + " " + p.Version, p.Blob})
		if err != nil {
			return err
		}

		err = debian.ReadDeb(contextReader{ctx, r}, func(e debian.Entry, body io.Reader) error { return t.add(p.Name, e, body) })

		_ = r.Close()
		if err != nil {
			return debError(ctx, p, err)
		}
	}

	return nil
}

// debError says by which rule a package is refused; nothing of it where the disk, the source
// or the caller ended it.
func debError(ctx context.Context, p Package, err error) error {
	if _, ok := errors.AsType[*problem.Error](err); ok {
		return err
	}

	var fs *os.PathError
	if ctx.Err() != nil || errors.As(err, &fs) {
		return spaceError(err)
	}

	rule := ruleDebFormat
	switch {
	case errors.Is(err, debian.ErrSpecial):
		rule = ruleDebSpecialFile
	case errors.Is(err, errConflict):
		rule = ruleDebConflict
	}

	return refused(rule, "%s %s: %w", p.Name, p.Version, err)
}

// finish does what Debian's maintainer scripts would have done, as far as a
// runtime needs it, and adds the definition's own files.
func (t *tree) finish(def *Definition) error {
	for _, name := range mergedFolders {
		if _, used := t.nodes["usr/"+name]; used || name == "bin" || name == "lib" || name == "sbin" {
			if err := t.put("usr/"+name, &node{kind: tar.TypeDir, mode: 0o755, from: fromRebuild}); err != nil {
				return err
			}
			if err := t.put(name, symlink("usr/"+name, fromRebuild)); err != nil {
				return err
			}
		}
	}

	for _, d := range standardDirectories {
		if err := t.put(d.path, &node{kind: tar.TypeDir, mode: d.mode, from: fromRebuild}); err != nil {
			return err
		}

		t.nodes[d.path].mode = d.mode
		t.nodes[d.path].owner = d.owner
	}

	for _, f := range standardFiles {
		if err := t.file(f.path, f.mode, f.content); err != nil {
			return err
		}
	}

	if err := t.put("var/run", symlink("/run", fromRebuild)); err != nil {
		return err
	}

	if err := t.certificates(); err != nil {
		return err
	}

	return t.definition(def)
}

// definition adds the directories, files and links that a definition names.
func (t *tree) definition(def *Definition) error {
	for _, d := range def.Directories {
		n := &node{kind: tar.TypeDir, mode: int64(d.Mode), from: fromDefinition}
		if d.Owner == userApp {
			n.owner = appID
		}

		if old, ok := t.nodes[merged(d.Path[1:])]; ok && old.kind != tar.TypeDir {
			return fmt.Errorf("%s is not a directory", d.Path)
		}

		if err := t.replace(merged(d.Path[1:]), n); err != nil {
			return err
		}
	}

	for _, f := range def.Files {
		p := merged(f.Path[1:])

		if f.Link != "" {
			if err := t.replace(p, symlink(f.Link, fromDefinition)); err != nil {
				return err
			}
			continue
		}

		if err := t.file(p, int64(f.Mode), f.Content); err != nil {
			return err
		}
	}

	return nil
}

// Mount points of the launch profile, and what every program expects to find.
var standardDirectories = []struct {
	path  string
	mode  int64
	owner int
}{
	{"dev", 0o755, 0}, {"etc", 0o755, 0}, {"home", 0o755, 0}, {"home/app", 0o755, appID}, {"proc", 0o555, 0},
	{"root", 0o700, 0}, {"run", 0o755, 0}, {"run/cupel", 0o755, 0}, {"sys", 0o555, 0}, {"tmp", 0o1777, 0},
	{"usr", 0o755, 0}, {"var", 0o755, 0}, {"var/tmp", 0o1777, 0},
}

// standardFiles are mount points of files, and who is who: Debian's base-passwd and
// base-files would make them.
var standardFiles = []struct {
	path    string
	mode    int64
	content string
}{
	{"cupel-init", 0o755, ""},
	{"etc/hosts", 0o644, ""},
	{"etc/resolv.conf", 0o644, ""},
	{"etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n" +
		"app:x:1000:1000:app:/home/app:/bin/sh\n" +
		"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
	{"etc/group", 0o644, "root:x:0:\napp:x:1000:\nnogroup:x:65534:\n"},
	{"etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\n" +
		"protocols: files\nservices: files\n"},
}

// bundle is where programs look for the certificate authorities that the system trusts.
const bundle = "etc/ssl/certs/ca-certificates.crt"

// certificates writes the bundle that update-ca-certificates would write.
func (t *tree) certificates() error {
	var names []string
	for p, n := range t.nodes {
		if strings.HasPrefix(p, "usr/share/ca-certificates/mozilla/") && n.kind == tar.TypeReg {
			names = append(names, p)
		}
	}

	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)

	var all bytes.Buffer
	for _, p := range names {
		n := t.nodes[p]

		if n.len > 1<<20 {
			return fmt.Errorf("/%s: %d bytes are no certificate", p, n.len)
		}

		b := make([]byte, n.len)
		if _, err := t.spool.ReadAt(b, n.off); err != nil {
			return err
		}

		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
			return fmt.Errorf("/%s: not one PEM certificate", p)
		}

		all.Write(pem.EncodeToMemory(block))
	}

	if err := t.file(bundle, 0o644, all.String()); err != nil {
		return err
	}

	// OpenSSL's own default place, for programs that ask it and not the system.
	return t.replace("usr/lib/ssl/cert.pem", symlink("/"+bundle, fromRebuild))
}

// pack writes the tree as a tar archive: sorted, one time, no names of owners. That is what
// makes the bytes the same on every machine; a layer asks for no order (OCI image
// specification, image layer filesystem changeset).
func (t *tree) pack(ctx context.Context, w io.Writer, at time.Time) error {
	tw := tar.NewWriter(w)
	first := map[int]string{} // inode -> path already written

	names := make([]string, 0, len(t.nodes))
	for p := range t.nodes {
		if p != "" {
			names = append(names, p)
		}
	}
	slices.Sort(names)

	for _, p := range names {
		if err := ctx.Err(); err != nil {
			return err
		}

		n := t.nodes[p]
		h := &tar.Header{
			Typeflag: n.kind,
			Name:     p,
			Linkname: n.link,
			Mode:     n.mode,
			Uid:      n.owner,
			Gid:      n.owner,
			ModTime:  at,
			Format:   tar.FormatPAX,
		}

		switch n.kind {
		case tar.TypeDir:
			h.Name += "/"
		case tar.TypeReg:
			h.Size = n.len
			if to, ok := first[n.inode]; ok && n.inode != 0 {
				h.Typeflag = tar.TypeLink
				h.Linkname = to
				h.Size = 0
			} else {
				first[n.inode] = p
			}
		}

		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("/%s: %w", p, err)
		}

		if h.Size > 0 {
			if _, err := io.Copy(tw, io.NewSectionReader(t.spool, n.off, n.len)); err != nil {
				return fmt.Errorf("/%s: %w", p, err)
			}
		}
	}

	return tw.Close()
}
