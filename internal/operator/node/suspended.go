package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/procfs"
)

// The kernel accepts connections for an app that was stopped by a signal, and nobody
// answers them. So an app that accepts connections is looked at now and then. It counts as
// suspended only once several looks in a row found it stopped: what a program does to
// another one for a moment makes nobody ill. A debugger's stop is another state of a
// process, and so is a frozen control group.
const (
	suspendedEach  = 5 // checks that went well between two looks
	suspendedLooks = 3 // in a row
)

// suspendedWatch is what was seen of an app's processes. It belongs to watchHealth.
type suspendedWatch struct {
	checks int
	found  int // how often in a row
}

// after follows a check of the port, and returns whether the app counts as suspended. A
// look at its processes, which the function suspended is, is due after several checks that
// went well. While looks find it stopped, one is due after each check, whether it went well
// or not: at some time the kernel takes no more connections for the app.
func (w *suspendedWatch) after(ok bool, suspended func() bool) bool {
	if !ok && w.found == 0 {
		return false
	}

	if w.checks++; w.found == 0 && w.checks%suspendedEach != 0 {
		return false
	}

	if !suspended() {
		w.found = 0
		return false
	}

	w.found++
	return w.found >= suspendedLooks
}

// suspended tells whether all processes of an instance's app were stopped by a signal.
// Its launcher, whose parent is in no such group, isn't one of them.
func (n *Node) suspended(id ident.AttemptID) bool {
	pids, err := n.cfg.Cgroups.Processes(n.cgroup(id))
	if err != nil {
		return false
	}
	return allSuspended(pids)
}

// allSuspended tells whether there are processes of an app among these, and every one of
// them was stopped by a signal.
func allSuspended(pids []int) bool {
	some := false
	for _, pid := range pids {
		s, err := procfs.Of(pid)
		if err != nil || !slices.Contains(pids, s.Parent) {
			continue
		}

		if s.State != 'T' {
			return false
		}
		some = true
	}
	return some
}

// appSuspended says why an app that accepts connections isn't healthy.
func appSuspended() *problem.Error {
	return problem.New(problem.Unavailable, problem.RuleUnhealthy, "the app's processes are stopped (SIGSTOP): connections are accepted, and nobody answers them").
		Fix("whoever stopped them lets them go on, on the app's machine: kill -CONT, each process; or its owner deploys the app again")
}

// wake lets processes of an instance go on that were stopped by a signal, and tells it. In
// the event they are called what.
func (n *Node) wake(ctx context.Context, id ident.AttemptID, what string, pids []int) {
	pids = slices.DeleteFunc(pids, func(pid int) bool {
		return !procfs.Suspended(pid) || syscall.Kill(pid, syscall.SIGCONT) != nil
	})
	if len(pids) == 0 {
		return
	}

	number, were := "process", "was stopped by a signal: it was"
	if len(pids) > 1 {
		number, were = "processes", "were stopped by a signal: they were"
	}

	n.tell(ctx, manager.Incident{
		Warning:  true,
		Reason:   ReasonStopped,
		Instance: id,
		Message:  fmt.Sprintf("%s of instance %s (%s %s) %s told to go on (SIGCONT)", what, id, number, numbers(pids), were),
	})
}

// wakeLauncher lets an instance's first process go on. Nobody inside can stop it, and
// while it is, the instance says nothing, gets no secret and can't end.
func (n *Node) wakeLauncher(ctx context.Context, c ContainerState) {
	if !procfs.Suspended(c.PID) { // one file, where a control group is several
		return
	}

	pids, err := n.cfg.Cgroups.Processes(n.cgroup(c.ID))
	if err == nil && slices.Contains(pids, c.PID) { // else its number may be another one's by now
		n.wake(ctx, c.ID, "the launcher", []int{c.PID})
	}
}

// wakeAll lets all of an instance's processes go on: it is to end, and one that is stopped
// doesn't hear of it.
func (n *Node) wakeAll(ctx context.Context, id ident.AttemptID) {
	if pids, err := n.cfg.Cgroups.Processes(n.cgroup(id)); err == nil {
		n.wake(ctx, id, "the app", pids)
	}
}

func numbers(pids []int) string {
	return strings.Trim(fmt.Sprint(pids), "[]")
}
