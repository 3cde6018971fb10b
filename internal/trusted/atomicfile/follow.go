package atomicfile

import (
	"cmp"
	"os"
	"path/filepath"
)

// DeadLink is a symbolic link at whose end nothing is.
type DeadLink struct{ Path, Target string }

// maxLinks is how many symbolic links on the way to a folder the kernel follows
// (path_resolution(7)).
const maxLinks = 40

// Follow is an absolute path without symbolic links. What isn't there (any more), as a folder
// whose disk isn't mounted, has a name all the same: where its parent leads, and a link. The
// first link at whose end nothing is, is returned with it; nil: there is none.
func Follow(path string) (real string, dead *DeadLink) { return follow(path, maxLinks) }

func follow(path string, links int) (real string, dead *DeadLink) {
	if real, err := filepath.EvalSymlinks(path); err == nil || links == 0 || path == "/" {
		return cmp.Or(real, path), nil
	}

	parent, dead := follow(filepath.Dir(path), links)
	path = filepath.Join(parent, filepath.Base(path))

	target, err := os.Readlink(path)
	if err != nil {
		return path, dead
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(parent, target)
	}

	real, _ = follow(target, links-1)
	return real, &DeadLink{path, real}
}
