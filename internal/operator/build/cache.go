package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/filelock"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
)

// cache is a folder of blobs by hash. It is a rebuild.Source.
type cache struct{ dir string }

// path is where a blob is, or will be.
func (c cache) path(d ident.Digest) string { return filepath.Join(c.dir, d.String()) }

// Open implements rebuild.Source.
func (c cache) Open(_ context.Context, d ident.Digest) (io.ReadCloser, error) {
	f, err := atomicfile.Open(c.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New(problem.NotFound, problem.RuleSourceMissing, "no blob with sha256 %s in the cache", d)
	}

	return f, err
}

// has reports whether the blob is there, whole: files that lost bytes (a disk
// that was full, a machine that lost power) are taken away.
func (c cache) has(b rebuild.Blob) bool {
	f, err := atomicfile.Open(c.path(b.SHA256))
	if err != nil {
		return false
	}
	defer f.Close()

	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && n == b.Size && ident.Digest(h.Sum(nil)) == b.SHA256 {
		return true
	}

	_ = os.Remove(c.path(b.SHA256))
	return false
}

// put stores bytes that are in memory.
func (c cache) put(b []byte) error {
	d := ident.Sum(b)
	tmp := c.path(d) + ".partial"
	err := os.WriteFile(tmp, b, 0o644)
	if err == nil {
		err = os.Rename(tmp, c.path(d))
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return spaceError(err)
}

// lock waits until no other build uses the cache.
func (c cache) lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, spaceError(err)
	}

	f, err := os.OpenFile(filepath.Join(c.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, spaceError(err)
	}

	err = filelock.Try(f)
	if errors.Is(err, filelock.ErrHeld) {
		waiting()
		err = filelock.Wait(ctx, f)
	}

	if err != nil {
		_ = f.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}

	return func() { _ = f.Close() }, nil
}

// fromSource copies a blob out of another source; false if it isn't there.
func (c cache) fromSource(ctx context.Context, src rebuild.Source, b rebuild.Blob) (bool, error) {
	r, err := src.Open(ctx, b.SHA256)
	if err != nil {
		return false, ctx.Err() // another source may have it
	}
	defer r.Close()
	if err := os.Remove(c.path(b.SHA256) + ".partial"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}

	return c.finish(b, r, 0)
}

// finish appends r to the partial file from the offset and keeps the result if
// it is the blob; false if it is other bytes, which are thrown away.
func (c cache) finish(b rebuild.Blob, r io.Reader, offset int64) (bool, error) {
	partial := c.path(b.SHA256) + ".partial"
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return false, spaceError(err)
	}
	defer f.Close() // closed below where it counts

	if err := f.Truncate(offset); err != nil {
		return false, err
	}

	h := sha256.New()
	if _, err := io.CopyN(h, f, offset); err != nil {
		return false, err
	}

	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, b.Size-offset+1))
	if err != nil {
		if diskerror.Full(err) {
			_ = os.Remove(partial) // a full disk is not helped by keeping it
		}
		return false, spaceError(err)
	}

	if err := f.Close(); err != nil {
		return false, spaceError(err)
	}

	if offset+n != b.Size || ident.Digest(h.Sum(nil)) != b.SHA256 {
		_ = os.Remove(partial)
		return false, nil
	}

	return true, os.Rename(partial, c.path(b.SHA256))
}

// download tries a blob's addresses in turn, each a few times; a download that
// broke off goes on where it stopped.
func (c cache) download(ctx context.Context, client *http.Client, what string, b rebuild.Blob, urls []string) error {
	var last error
	for try := range tries {
		if err := pause(ctx, try); err != nil {
			return err
		}

		missing := 0
		for _, u := range urls {
			ok, err := c.downloadOnce(ctx, client, u, b)
			if ok {
				return nil
			}

			if ctx.Err() != nil {
				return ctx.Err()
			}

			switch {
			case err == nil:
				last = problem.New(problem.Unavailable, problem.RuleSourceBytes, "%s: %s sent other bytes", what, u).
					Want("%d bytes with sha256 %s", b.Size, b.SHA256).
					Fix("if Debian has moved on since the lock was written, write a new one with --update; else choose another mirror with --mirror")
				missing++ // asking again changes nothing
			case problem.KindOf(err) == problem.NotFound:
				missing++
				last = problem.New(problem.NotFound, problem.RuleSourceMissing, "%s is no longer at %s", what, u).
					Fix("Debian has moved on: write a new lock with --update, or start the registry that holds the lock's artifact")
			case problem.From(err).Rule == diskerror.RuleFull:
				return err
			default:
				last = err
			}
		}

		if missing == len(urls) {
			break
		}
	}

	return last
}

// downloadOnce asks one address, for the rest of a download that broke off (RFC 9110 section
// 14.2, Range). False without an error: what came are other bytes than the blob's.
func (c cache) downloadOnce(ctx context.Context, client *http.Client, url string, b rebuild.Blob) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("User-Agent", "cupel")

	var offset int64
	if st, err := os.Stat(c.path(b.SHA256) + ".partial"); err == nil && st.Size() < b.Size {
		offset = st.Size()
		if offset > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		}
	}

	resp, err := client.Do(req)
	if err != nil {
		return false, unreachable(req, err)
	}
	defer resp.Body.Close()

	switch resp.StatusCode {
	case http.StatusOK:
		offset = 0
	case http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			return false, unreachable(req, errors.New("the server sent another range than it was asked for"))
		}
	case http.StatusRequestedRangeNotSatisfiable: // our part is longer than what is there
		if offset == 0 {
			return false, unreachable(req, errors.New(resp.Status))
		}
		if err := os.Remove(c.path(b.SHA256) + ".partial"); err != nil {
			return false, err
		}
		return c.downloadOnce(ctx, client, url, b)
	case http.StatusNotFound, http.StatusGone:
		return false, problem.New(problem.NotFound, problem.RuleSourceMissing, "%s: %s", url, resp.Status)
	default:
		return false, unreachable(req, errors.New(resp.Status))
	}

	ok, err := c.finish(b, resp.Body, offset)
	if err == nil && !ok && offset > 0 {
		return c.downloadOnce(ctx, client, url, b) // the old part was bad: once more, from the start
	}

	if err != nil && problem.From(err).Rule != diskerror.RuleFull {
		return false, unreachable(req, err)
	}

	return ok, err
}

// unreachable says that a mirror doesn't give what it was asked for.
func unreachable(req *http.Request, err error) error {
	return problem.New(problem.Unavailable, ruleMirrorUnreachable, "%s: %w", req.URL, err).
		Fix("check the network and apt's proxy settings, or choose another mirror with --mirror")
}

// spaceError explains an error of a disk that takes nothing.
func spaceError(err error) error {
	return diskerror.Explain(err, os.TempDir(), "the state folder (--state names another) and of temporary files (TMPDIR)")
}
