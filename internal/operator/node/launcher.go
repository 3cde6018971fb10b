package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// LauncherDigest is the digest of the launcher that instances run which name
// none: part of what is measured.
func (n *Node) LauncherDigest() ident.Digest { return n.digest }

// keepLauncher copies the launcher under its digest, so that a rebuild in place
// neither disturbs running instances nor changes what the next one is.
func (n *Node) keepLauncher() error {
	src, err := os.Open(n.cfg.Launcher)
	if err != nil {
		return problem.New(problem.Invalid, problem.RuleLauncherMissing, "open the launcher: %w", err).
			Fix("build it (make build) and keep cupel-init beside cupeld")
	}
	defer src.Close()

	h := sha256.New()
	if _, err := io.Copy(h, src); err != nil {
		return fmt.Errorf("read the launcher: %w", err)
	}
	if n.useLauncher(h) == nil {
		return nil // the same inode as running instances have, and nothing to be written
	}

	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("copy the launcher: %w", err)
	}
	tmp, err := os.CreateTemp(n.dir("launcher"), ".copy-*")
	if err != nil {
		return fmt.Errorf("copy the launcher: %w", err)
	}
	defer os.Remove(tmp.Name())

	h.Reset() // what is copied counts, whatever was read before
	_, err = io.Copy(io.MultiWriter(tmp, h), src)
	if err = errors.Join(err, tmp.Chmod(0o555), tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("copy the launcher: %w", err)
	}

	if n.useLauncher(h) == nil {
		return nil
	}
	if err := os.Rename(tmp.Name(), n.launcher); err != nil {
		return fmt.Errorf("copy the launcher: %w", err)
	}
	return atomicfile.SyncDir(n.dir("launcher"))
}

// useLauncher makes the launcher of that digest the node's own; an error says that no
// copy of it is there, or that it is damaged.
func (n *Node) useLauncher(h hash.Hash) error {
	n.digest = ident.Digest(h.Sum(nil))
	n.launcher = n.dir("launcher", n.digest.String())
	return isWhole(n.launcher, n.digest)
}

// isWhole checks that a file has the bytes of the digest.
func isWhole(file string, digest ident.Digest) error {
	f, err := atomicfile.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}

	if got := ident.Digest(h.Sum(nil)); got != digest {
		return fmt.Errorf("%s is damaged: its digest is %.12s", file, got)
	}
	return nil
}

// launcherFile is the launcher of that digest; zero: the node's own. After an
// upgrade those before it are kept, for what was deployed with them.
func (n *Node) launcherFile(digest ident.Digest) (string, error) {
	if digest.IsZero() || digest == n.digest {
		return n.launcher, nil
	}

	file := n.dir("launcher", digest.String())
	if err := isWhole(file, digest); err != nil {
		return "", problem.New(problem.NotFound, problem.RuleLauncherMissing, "launcher %.12s, which this was deployed with: %w", digest, err).
			Fix("put the file back, or let the app's owner measure the runtimes again, update the session and deploy")
	}
	return file, nil
}

// DropLaunchers removes the launchers that nothing names any more; running
// instances have theirs mounted and lose nothing.
func (n *Node) DropLaunchers(named []ident.Digest) error {
	entries, err := os.ReadDir(n.dir("launcher"))
	if err != nil {
		return fmt.Errorf("look at launchers: %w", err)
	}
	n.mu.Lock()
	for _, i := range n.instances {
		named = append(named, i.rec.Spec.Launcher)
	}
	n.mu.Unlock()

	for _, e := range entries {
		digest, err := ident.ParseDigest(e.Name())
		if err != nil || digest == n.digest || slices.Contains(named, digest) {
			continue
		}
		if err := os.Remove(n.dir("launcher", e.Name())); err != nil {
			return fmt.Errorf("remove an old launcher: %w", err)
		}
	}
	return nil
}
