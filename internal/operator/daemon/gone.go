package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A state folder may be gone while things of it run: moved, removed, or on a disk that isn't
// mounted any more. What carries its name is found without it.

// gone says that there is no folder, or nothing of Cupel's in it.
func (l layout) gone() bool {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}

	return !slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() == filepath.Base(l.lockFile()) || slices.Contains(marks, e.Name())
	})
}

// endGone ends what still runs of a folder that is gone, and returns it in words. A cupeld
// among that could only lose what its apps wrote, so it is ended by force alone.
func (l layout) endGone(ctx context.Context, force bool) (ended []string, err error) {
	away, runs := errors.AsType[*awayError](l.unseen())
	if runs && !force {
		return nil, away.problem()
	}

	left := &awayError{apps: l.instances(), daemons: l.processes()}
	if runs {
		if err := l.endAway(ctx, away.cupeld); err != nil {
			return nil, err
		}
	}

	ended = left.left()
	if len(ended) == 0 && l.cgroupExists() {
		ended = []string{"control groups " + string(l.cgroup())}
	}

	return ended, l.sweep(ctx)
}

// inWords names processes, as people call them.
func inWords(list []process) []string {
	var words []string
	for _, p := range list {
		words = append(words, fmt.Sprintf("%s (process %d)", p.name, p.pid))
	}
	return words
}
