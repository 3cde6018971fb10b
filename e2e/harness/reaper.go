//go:build e2e

package harness

import (
	"io"
	"os/exec"
	"syscall"
	"testing"
)

// reaper is a process that takes a world down if the test binary dies without
// doing so (a panic in some goroutine, a timeout, a kill -9). It waits on a pipe
// that the kernel closes with the test binary.
type reaper struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// The git server's process group is in a file by then.
const reaperScript = `
read -r word
[ "$word" = done ] && exit 0
"$1/bin/cupel" --state "$2" cleanup --yes
for exe in /proc/[0-9]*/exe; do # parties' commands that wait for an answer
  case "$(readlink "$exe")" in "$1"/*) pid=${exe#/proc/}; kill -9 "${pid%/exe}" ;; esac
done
mountpoint -q "$1/disk" && umount "$1/disk"
[ -s "$1/git/pid" ] && kill -- "-$(cat "$1/git/pid")"
[ -n "$CUPEL_E2E_KEEP" ] || rm -rf "$1"
`

// startReaper starts the reaper of a world, whose folders are known by then.
func startReaper(t testing.TB, w *World) *reaper {
	t.Helper()
	r := &reaper{cmd: exec.Command("/bin/sh", "-c", reaperScript, "reaper", w.Dir, w.State)}
	r.cmd.Dir = "/"

	// Out of reach of signals to the test's process group.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}

	var err error
	if r.pipe, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

// pid is the reaper's process, which is no leftover.
func (r *reaper) pid() int { return r.cmd.Process.Pid }

// dismiss ends the reaper: the world was taken down.
func (r *reaper) dismiss() {
	_, _ = io.WriteString(r.pipe, "done\n")
	_ = r.pipe.Close()
	_ = r.cmd.Wait()
}
