package main

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSealed seals a process of its own: it can't be undone.
func TestSealed(t *testing.T) {
	if os.Getenv("CUPEL_TEST_SEAL") != "" {
		unix.Umask(0o000)
		_ = unix.Prctl(67, 1, 0, 0, 0) // PR_SET_MEMORY_MERGE, which not every kernel has
		err := sealProcess()
		merged, merr := unix.PrctlRetInt(68, 0, 0, 0, 0)
		dumpable, derr := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		var core unix.Rlimit
		rerr := unix.Getrlimit(unix.RLIMIT_CORE, &core)
		fmt.Println(err, derr, rerr, dumpable, core.Cur <= 1, core.Max <= 1, merr != nil || merged == 0, unix.Umask(0))
		os.Exit(0)
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSealed$")
	c.Env = append(os.Environ(), "CUPEL_TEST_SEAL=1")
	out, err := c.Output()
	if err != nil || string(out) != "<nil> <nil> <nil> 0 true true true 63\n" {
		t.Errorf("%q, %v", out, err)
	}
}
