package node

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"cupel.dev/cupel/internal/operator/node/logfile"
)

// tendLog gives a running container another log writer if its own died, and lets one go
// on that was stopped by a signal: soon its app would wait for it. The output is found
// through the container's first process: the launcher keeps the reading ends of its pipes,
// so that nothing breaks while nobody reads.
func (n *Node) tendLog(ctx context.Context, c ContainerState) error {
	n.tending.Lock()
	defer n.tending.Unlock()

	dir := n.dir("logs", string(c.ID))
	n.wake(ctx, c.ID, "the log writer", []int{logfile.Process(dir)})

	if abandoned, err := logfile.Abandoned(dir); err != nil || !abandoned {
		return err
	}

	stdout, err := openPipe(fmt.Sprintf("/proc/%d/fd/1", c.PID))
	if err != nil {
		return err
	}
	defer stdout.Close()
	stderr, err := openPipe(fmt.Sprintf("/proc/%d/fd/2", c.PID))
	if err != nil {
		return err
	}
	defer stderr.Close()

	// The process's number may have been used again since the container was
	// listed. If the container still has it, what was opened is the container's.
	now, err := n.cfg.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	same := func(o ContainerState) bool { return o.ID == c.ID && o.Running && o.PID == c.PID }
	if !slices.ContainsFunc(now, same) {
		return nil // it ended meanwhile, and its output with it
	}

	if err := logfile.Resume(n.cfg.LogWriter, dir, n.cfg.Limits, stdout, stderr); err != nil {
		return err
	}

	n.cfg.Logger.WarnContext(ctx, "log writer died and was replaced", "instance", c.ID)
	return nil
}

// openPipe opens the reading end of the pipe behind a process's descriptor.
func openPipe(path string) (*os.File, error) {
	target, err := os.Readlink(path)
	if err != nil {
		return nil, fmt.Errorf("find the output: %w", err)
	}
	if !strings.HasPrefix(target, "pipe:") {
		return nil, fmt.Errorf("find the output: %s is %s, not a pipe", path, target)
	}
	return os.Open(path)
}
