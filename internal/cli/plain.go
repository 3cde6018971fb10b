package cli

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"cupel.dev/cupel/internal/trusted/problem"
)

// plain says a refusal in words where a part of it is what the system or Go calls it,
// and no word twice.
func plain(err error, p *problem.Error) *problem.Error {
	q := *p
	q.Actual = strings.TrimPrefix(q.Actual, q.Rule+": ")
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		q.Actual = strings.Replace(q.Actual, e.Error(), e.Path+": "+fileWords(e.Err), 1)
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		q.Actual = strings.Replace(q.Actual, e.Error(), e.New+": "+fileWords(e.Err), 1)
	}
	return &q
}

// fileWords says why a file can't be used.
func fileWords(err error) string {
	for _, w := range []struct {
		cause error
		words string
	}{
		{fs.ErrNotExist, "there is no such file"},
		{syscall.EISDIR, "it is a folder, not a file"},
		{syscall.ENOTDIR, "a part of its path is no folder"},
		{fs.ErrPermission, "you have no right to it"},
		{syscall.EROFS, "nothing can be written there"},
		{syscall.ENOSPC, "the disk is full"},
		{syscall.EDQUOT, "your share of the disk is used up"},
		{syscall.ENAMETOOLONG, "its name is too long"},
		{syscall.ELOOP, "its path goes round through links"},
	} {
		if errors.Is(err, w.cause) {
			return w.words
		}
	}
	return err.Error()
}
