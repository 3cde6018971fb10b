package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/wording"
)

// explain says what a person can do about an error of the state folder: its disk is
// full or fails, or something is not what it should be there. Others stay as they are.
func (l layout) explain(err error) error {
	err = diskerror.Explain(err, l.dir, "the state folder")
	if _, explained := errors.AsType[*problem.Error](err); err == nil || explained {
		return err
	}

	path, ok := pathOf(err)
	if !ok || path != l.dir && !strings.HasPrefix(path, l.dir+"/") {
		return err
	}

	if nowhere := l.linkTo(path); nowhere != nil {
		return nowhere.problem().Fix("mount what it leads to (%s), or remove the link", nowhere.target)
	}
	p := problem.New(problem.Invalid, problem.RuleStateDamaged, "%w", err)
	switch {
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, fs.ErrExist):
		return p.Want("what Cupel put there, a file or a folder").
			Fix("look what is at %s (ls -ld), and move it away; what was there, put back from a backup", path)
	case errors.Is(err, fs.ErrPermission):
		return p.Want("a place that root may read and write").
			Fix("look what keeps root from %s: lsattr shows attributes, findmnt its file system", path)
	case errors.Is(err, fs.ErrNotExist):
		return p.Fix("look who removes %s, and put it back from a backup", path)
	}
	return p.Fix("look what is at %s, and at the disk (dmesg)", path)
}

// linkTo is the link on the way to something in the folder that leads nowhere; nil: there
// is none.
func (l layout) linkTo(path string) *leadsNowhere {
	for ; path != l.dir && strings.HasPrefix(path, l.dir+"/"); path = filepath.Dir(path) {
		if nowhere, ok := errors.AsType[*leadsNowhere](isFolder.wrong(path)); ok {
			return nowhere
		}
	}
	return nil
}

// pathOf is what an error of the file system is about.
func pathOf(err error) (string, bool) {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Path, true
	}
	if p, ok := errors.AsType[*os.LinkError](err); ok {
		return wording.LinkPath(p), true
	}
	return "", false
}
