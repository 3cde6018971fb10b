package daemon

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/internal/need"
)

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
