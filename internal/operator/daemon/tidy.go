package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/diskerror"
)

// tidyEvery is how often somebody looks at what grows beside the apps.
const tidyEvery = time.Minute

// strayLog is where a detached cupeld's standard error goes.
func (l layout) strayLog() string { return l.path("log", "cupeld.stderr") }

// tidy keeps small what other programs append to, and the reserve filled, until ctx
// ends.
func (p *parts) tidy(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()

	for {
		for _, file := range []string{p.daemon.LogFile(), p.strayLog()} {
			if err := setAside(file, maxLog); err != nil {
				p.log.WarnContext(ctx, "log not set aside", "file", file, "error", err)
			}
		}

		if p.room.check() == nil {
			_ = p.reserve.fill() // what is wrong with the folder, the next start says
		}

		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// setAside moves what a log holds into the older file once it has that many bytes. Who writes
// it goes on with the same file, which it opened to append; a line that comes just
// then may be lost. On a full disk the older part goes without a copy.
func setAside(file string, limit int64) error {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() < limit {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", file, err)
	}
	if !info.Mode().IsRegular() {
		return nil // the next start puts it aside
	}

	file, before, err := older(file)
	if err != nil {
		return fmt.Errorf("look at %s: %w", file, err)
	}
	err = copyFile(file, before)
	if err != nil && !diskerror.Full(err) {
		return err
	}

	return os.Truncate(file, 0)
}

// copyFile copies a file over another.
func copyFile(from, to string) error {
	src, err := atomicfile.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()

	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}

	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
