package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/diskerror"
)

// TestInterruptHidesNoError: what failed by itself after an interrupt is told, with its
// mend, however it is wrapped; what the interrupt ended isn't.
func TestInterruptHidesNoError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	shot, shoot := context.WithCancel(t.Context())
	program := exec.CommandContext(shot, "sleep", "600")
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	shoot()
	killed := fmt.Errorf("nft: %w", program.Wait())
	crashed := fmt.Errorf("nft: %w", exec.Command("sh", "-c", "ulimit -c 0; kill -SEGV $$").Run())
	failed := problem.New(problem.Unavailable, "disk_full", "no room").Fix("make some")
	l := layout{dir: t.TempDir()}
	broken := &fs.PathError{Op: "open", Path: l.path("node"), Err: syscall.EIO}
	for _, c := range []struct {
		err  error
		code int
		want string // how what is told begins
	}{
		// A program that exec ended for the interrupt's sake didn't fail by itself.
		{errors.Join(fmt.Errorf("stop: %w", context.Canceled), killed), 130, "cupeld: interrupted: ended by a signal, before it was done\n  mend:     again\n"},
		{errors.Join(context.Canceled, fmt.Errorf("stop: %w", failed)), problem.Unavailable.ExitCode(), "cupeld: disk_full: no room\n  mend:     make some\n"},
		{l.explain(errors.Join(killed, broken)), problem.Unavailable.ExitCode(), "cupeld: disk_error: nft: signal: killed\n"},
		{l.explain(errors.Join(context.Canceled, broken)), problem.Unavailable.ExitCode(), "cupeld: disk_error: context canceled\n"},
		{fmt.Errorf("stop: %w", errors.Join(killed, context.Canceled, broken)), 1, "cupeld: stop: nft: signal: killed\n"},
		{fmt.Errorf("stop: %w; start: %w", context.Canceled, crashed), 1, "cupeld: stop: context canceled; start: nft: signal: segmentation fault\n"},
		{fmt.Errorf("stop: %w; start: %w", context.Canceled, killed), 130, "cupeld: interrupted: ended by a signal, before it was done\n  mend:     again\n"},
		{errors.Join(errors.Join(context.Canceled, crashed)), 1, "cupeld: nft: signal: segmentation fault\n"},
		{crashed, 1, "cupeld: nft: signal: segmentation fault\n"},
		{errors.Join(context.Canceled, crashed), 1, "cupeld: nft: signal: segmentation fault\n"},
	} {
		var said strings.Builder
		cli := &cli{err: &said, output: "table"}
		err := cli.byHalves(ctx, "again", func() error { return c.err })
		said.Reset()
		if code := cli.fail(err); code != c.code || !strings.HasPrefix(said.String(), c.want) {
			t.Errorf("%v: exit %d, want %d, with %q: %s", c.err, code, c.code, c.want, &said)
		}
	}
	for want, err := range map[string]error{"cupeld_ended": context.Canceled, string(diskerror.RuleFails): l.explain(errors.Join(context.Canceled, broken))} {
		if p := detachedProblem(err); string(p.Rule) != want {
			t.Errorf("who started it is told of %v: %v", err, p)
		}
	}
}

// TestWhatKeepsAppsFromTheirEnd: only what is tried again is said to be.
func TestWhatKeepsAppsFromTheirEnd(t *testing.T) {
	var said []string
	p := newParts(layout{}, slog.New(slog.DiscardHandler))
	p.ends.say = func(line string) { said = append(said, line) }
	p.stopping.Store(true)
	for _, in := range []manager.Incident{
		{Warning: true, Reason: manager.ReasonTrouble, Instance: "i-1-1", Message: "store a volume: no room"},
		{Warning: true, Reason: node.ReasonStopped, Instance: "i-1-1", Message: "it was stopped"},
		{Reason: "leftover_removed", Message: "another's"},
		{Reason: manager.ReasonTroubleOver, Instance: "i-1-1"},
	} {
		p.nodeTells(in)
	}
	want := []string{
		"instance i-1-1: store a volume: no room. It is tried again; cupel down --force does not wait long for it",
		"instance i-1-1: it was stopped. cupel down --force does not wait long for it",
		"",
	}
	if !slices.Equal(said, want) {
		t.Errorf("%q", said)
	}
}

// TestInterrupted: an interrupt of what may be done by halves is heard at once, and in
// the end it is said what may be left, and how to go on.
func TestInterrupted(t *testing.T) {
	need.Root(t)
	l, err := newLayout(folder(t))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := l.make()
	if err == nil {
		err = lock.sign(workDown) // which others wait for
	}
	if err != nil {
		t.Fatal(err)
	}
	defer lock.release()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}

	for command, mend := range map[string]string{
		"down":          "  mend:     a cupeld that runs was told to stop and goes on with it; 'cupel down --state " + l.dir + "' again stops what else is left",
		"cleanup --yes": "  mend:     a part of " + l.dir + " may be removed already: 'cupel cleanup --state " + l.dir + "' again removes the rest",
	} {
		cmd := exec.Command(self, append(strings.Fields(command), "--state", l.dir)...)
		cmd.Args[0] = "cupeld"
		errs, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(errs)
		var said strings.Builder
		for lines.Scan() {
			said.WriteString(lines.Text() + "\n")
			if strings.HasPrefix(lines.Text(), "waiting for ") {
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		for _, want := range []string{"cupeld: interrupted: ended by a signal, before it was done\n" + mend, "interrupted: what is under way comes to its end first\n"} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("%s: no %q in:\n%s", command, want, &said)
			}
		}
		if code := cmd.ProcessState.ExitCode(); code != 130 || cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
			t.Errorf("%s: exit %d", command, code)
		}
	}
}
