package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/procfs"
)

// shim is what a shim's command line says.
type shim struct {
	procfs.Command
	namespace string
	id        ident.AttemptID
}

// shims lists the shims that were started for this daemon, whoever their parent is
// now.
func (d *Daemon) shims() ([]shim, error) {
	list, err := procfs.Commands()
	var out []shim
	for _, c := range list {
		if s, ok := parseShim(c, d.Address()); ok {
			out = append(out, s)
		}
	}
	return out, err
}

// parseShim reads the command line of a shim of the daemon at that address.
func parseShim(c procfs.Command, address string) (s shim, ok bool) {
	if !strings.HasPrefix(c.Name, "containerd-shim-runc") || !slices.Contains(c.Args, address) {
		return s, false
	}

	s.Command = c
	for i, a := range c.Args[:len(c.Args)-1] {
		switch a {
		case "-namespace":
			s.namespace = c.Args[i+1]
		case "-id":
			s.id = ident.AttemptID(c.Args[i+1])
		}
	}
	return s, true
}

// endShims ends shims of this daemon that are left.
func (d *Daemon) endShims(ctx context.Context) error {
	list, err := d.shims()
	errs := []error{err}
	for _, s := range list {
		errs = append(errs, end(ctx, s.PID, s.Alive))
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
			if !procfs.Suspended(s.PID) || !s.Alive() {
				continue
			}

			err := syscall.Kill(s.PID, syscall.SIGCONT)
			if err == nil {
				d.tell(ctx, node.ReasonStopped, fmt.Sprintf("the shim of instance %s (process %d) was stopped by a signal: it was told to go on (SIGCONT)", s.id, s.PID))
			}
		}
	}
}

// shims are those of this runtime's containers, by container.
func (r *Runtime) shims() (map[ident.AttemptID][]procfs.Command, error) {
	list, err := r.cfg.Daemon.shims()
	if err != nil {
		return nil, err
	}

	out := map[ident.AttemptID][]procfs.Command{}
	for _, s := range list {
		if s.namespace == r.cfg.Namespace && s.id != "" {
			out[s.id] = append(out[s.id], s.Command)
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
func (r *Runtime) endShims(ctx context.Context, id ident.AttemptID) error {
	r.mu.Lock()
	left := r.seen[id]
	delete(r.seen, id)
	r.mu.Unlock()
	if len(left) == 0 {
		return nil
	}

	var errs []error
	for _, p := range left {
		if p.Alive() {
			errs = append(errs, end(ctx, p.PID, p.Alive))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("end its shim: %w", err)
	}
	return os.RemoveAll(filepath.Join(r.cfg.RuncRoot, r.cfg.Namespace, string(id)))
}
