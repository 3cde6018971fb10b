package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/proc"
)

// process is a process that is still the one that was found: its number and the
// kernel's start time.
type process struct {
	pid   int
	start uint64
}

func (p process) alive() bool {
	now, err := startTime(p.pid)
	return err == nil && now == p.start
}

// shim is what a shim's command line says.
type shim struct {
	process
	namespace, id string
}

// shims lists the shims that were started for this daemon, whoever their parent is
// now.
func (d *Daemon) shims() ([]shim, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []shim
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // none, if it ended
		s, ok := parseShim(strings.Split(string(b), "\x00"), d.Address())
		if !ok {
			continue
		}
		if s.start, err = startTime(pid); err != nil {
			continue
		}
		s.pid = pid
		out = append(out, s)
	}
	return out, nil
}

// parseShim reads the command line of a shim of the daemon at that address.
func parseShim(args []string, address string) (s shim, ok bool) {
	if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim-runc") || !slices.Contains(args, address) {
		return s, false
	}
	for i, a := range args[:len(args)-1] {
		switch a {
		case "-namespace":
			s.namespace = args[i+1]
		case "-id":
			s.id = args[i+1]
		}
	}
	return s, true
}

// endShims ends shims of this daemon that are left.
func (d *Daemon) endShims(ctx context.Context) error {
	list, err := d.shims()
	errs := []error{err}
	for _, s := range list {
		errs = append(errs, end(ctx, s.pid, s.alive))
	}
	return errors.Join(errs...)
}

// wakeShims looks every now and then for shims that were stopped by a signal, and lets
// them go on: whoever waits for one would wait in vain, and to end it ends its app.
func (d *Daemon) wakeShims(ctx context.Context) {
	tick := time.NewTicker(d.cfg.Patience)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		list, _ := d.shims() // a failure ends with the next look
		for _, s := range list {
			if !proc.Stopped(s.pid) || !s.alive() {
				continue
			}
			err := syscall.Kill(s.pid, syscall.SIGCONT)
			if err == nil {
				d.tell(ctx, node.ReasonStopped, fmt.Sprintf("the shim of instance %s (process %d) was stopped by a signal: it was told to go on (SIGCONT)", s.id, s.pid))
			}
		}
	}
}

// shims are those of this runtime's containers, by container.
func (r *Runtime) shims() (map[string][]process, error) {
	list, err := r.cfg.Daemon.shims()
	if err != nil {
		return nil, err
	}
	out := map[string][]process{}
	for _, s := range list {
		if s.namespace == r.cfg.Namespace && s.id != "" {
			out[s.id] = append(out[s.id], s.process)
		}
	}
	return out, nil
}

// lookForShims remembers which there are, for the Delete that follows a failure.
func (r *Runtime) lookForShims() {
	found, err := r.shims()
	if err != nil {
		return // the next Leftovers looks again
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = found
}

// endShims ends what is left of a container that containerd doesn't know (any more):
// its shim, and what the low-level runtime keeps of it.
func (r *Runtime) endShims(ctx context.Context, id string) error {
	r.mu.Lock()
	left := r.seen[id]
	delete(r.seen, id)
	r.mu.Unlock()
	if len(left) == 0 {
		return nil
	}
	var errs []error
	for _, p := range left {
		if p.alive() {
			errs = append(errs, end(ctx, p.pid, p.alive))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("end its shim: %w", err)
	}
	return os.RemoveAll(filepath.Join(r.cfg.RuncRoot, r.cfg.Namespace, id))
}
