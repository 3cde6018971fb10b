package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/internal/need"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/trusted/problem"
)

// TestInterruptHidesNoError: what failed by itself after an interrupt is told, with its
// mend.
func TestInterruptHidesNoError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	shot, shoot := context.WithCancel(t.Context())
	program := exec.CommandContext(shot, "sleep", "600")
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	shoot()
	killed := program.Wait()
	failed := problem.New(problem.Unavailable, "disk_full", "no room").Fix("make some")
	for want, err := range map[string]error{
		// A program that exec ended for the interrupt's sake didn't fail by itself.
		ruleInterrupted: errors.Join(fmt.Errorf("stop: %w", context.Canceled), fmt.Errorf("nft: %w", killed)),
		"disk_full":     errors.Join(context.Canceled, fmt.Errorf("stop: %w", failed)),
	} {
		c := &cli{err: io.Discard}
		if p := problem.From(c.byHalves(ctx, "again", func() error { return err })); p.Rule != want || p.Mend == "" {
			t.Errorf("%v: %v", err, p)
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
