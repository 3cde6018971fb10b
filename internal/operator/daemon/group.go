package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/cgroup"
)

// A daemon that stays in the control group of whoever started it has that one's
// limits, and ends with the session that the group was made for. So the daemons
// have a group of their own, beside that of the instances.

// emptyLimit is how long a group may have processes still that were told to end.
const emptyLimit = 10 * time.Second

// daemonGroup is the daemons' control group.
func (l layout) daemonGroup() cgroup.Path { return l.cgroup() + "-daemons" }

// joinGroup moves a daemon there.
func (l layout) joinGroup(pid int) error {
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		return err
	}

	err = groups.Join(l.daemonGroup(), pid)
	if errors.Is(err, syscall.ESRCH) { // it has ended already, and whoever waits for it sees that
		return nil
	}
	if err != nil {
		return problem.New(problem.Denied, problem.RuleInherited, "cupeld can't change the control group that it inherited: %w", err).
			Want("nothing of whoever starts it").Fix("mount the control groups writable at /sys/fs/cgroup")
	}
	return nil
}

// adoptProcesses has what goes on from an earlier cupeld as one of this start: in the
// daemons' control group, and with this process's limits. An earlier release left it
// with those of whoever started it. Containers have groups and limits of their own.
func (l layout) adoptProcesses() error {
	for _, p := range l.lasting() {
		switch p.name {
		case "containerd", "containerd-shim-runc-v2", "cupel-log", "cupeld":
		default:
			continue
		}

		if err := l.joinGroup(p.pid); err != nil {
			return err
		}
		if err := giveLimits(p.pid); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("give process %d (%s) the daemons' limits: %w", p.pid, p.name, err)
		}
	}
	return nil
}

// giveLimits gives a process the resource limits of this one, or as much as it may have
// where the kernel raises none.
func giveLimits(pid int) error {
	for resource := unix.RLIMIT_CPU; resource <= unix.RLIMIT_RTTIME; resource++ {
		var own unix.Rlimit
		if err := unix.Getrlimit(resource, &own); err != nil {
			return err
		}

		err := unix.Prlimit(pid, resource, &own, nil)
		if errors.Is(err, unix.EPERM) {
			var was unix.Rlimit
			if err := unix.Prlimit(pid, resource, nil, &was); err != nil {
				return err
			}
			most := unix.Rlimit{Cur: min(own.Cur, was.Max), Max: min(own.Max, was.Max)}
			err = unix.Prlimit(pid, resource, &most, nil)
		}

		if err != nil {
			return err
		}
	}
	return nil
}

// leaveGroup takes this process out of it again, if it is in, and removes it unless
// others of the daemons go on.
func (l layout) leaveGroup(in bool) {
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err == nil && in {
		err = groups.Join("/", os.Getpid())
	}

	if err == nil && !l.containerdRuns() {
		_ = l.removeGroup(context.Background(), groups)
	}
}

// removeGroup removes the daemons' group, as soon as the last of them is gone.
func (l layout) removeGroup(ctx context.Context, groups *cgroup.Tree) error {
	return onceEmpty(ctx, func() error { return groups.Remove(l.daemonGroup()) })
}

// clearGroup ends by SIGKILL whatever is in a group and below, and removes it as soon as
// that is gone.
func clearGroup(ctx context.Context, groups *cgroup.Tree, path cgroup.Path) error {
	return onceEmpty(ctx, func() error { return errors.Join(groups.Kill(path), groups.Remove(path)) })
}

// onceEmpty tries to remove a group until the last process in it is gone: one that was
// killed takes its time.
func onceEmpty(ctx context.Context, remove func() error) error {
	for deadline := time.Now().Add(emptyLimit); ; {
		err := remove()
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return err
		}

		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
