package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// down stops what up started and removes every trace. Run again, or without an
// up before, it is no error.
func (d *demo) down(ctx context.Context) error {
	if !exists(d.dir) {
		d.say("There is no demo on this machine.")
		return nil
	}

	if exists(filepath.Join(d.dir, "bin", "cupel")) && exists(d.state()) {
		var err error
		if d.operator, err = d.party("operator", 0); err != nil {
			return err
		}

		d.title("The operator stops everything, and removes what it made on this machine.")
		if err := d.operator.run(ctx, "cupel", "cleanup", "--yes"); err != nil {
			return err
		}
	}

	if err := d.stopServer(); err != nil {
		return err
	}

	// A mount that stayed would be emptied, not removed.
	left, err := mountsBelow(d.dir)
	if err != nil {
		return err
	}

	if len(left) > 0 {
		return fmt.Errorf("still mounted: %s", strings.Join(left, ", "))
	}

	if err := os.RemoveAll(d.dir); err != nil {
		return err
	}

	d.say("Nothing is left.")
	return nil
}

// stopServer ends the git server, if it runs, and waits for its end.
func (d *demo) stopServer() error {
	if !d.serverRuns() {
		return nil
	}

	pid, err := strconv.Atoi(d.note("git-pid"))
	if err != nil {
		return err
	}

	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop the git server: %w", err)
	}

	for range 500 {
		if !d.serverRuns() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}

	return fmt.Errorf("the git server (process %d) doesn't end", pid)
}
