package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// sealProcess keeps what this process holds to itself, whoever starts it: no core
// dump, nobody without the right to trace everything reads its memory, its files
// are its user's alone, and no page is merged with equal ones of others, which
// would tell them what is in it. One byte is the limit at which the kernel also
// starts no helper where core_pattern is a pipe; where less is allowed, that is
// set.
func sealProcess() error {
	unix.Umask(0o077)
	const setMemoryMerge, getMemoryMerge = 67, 68 // prctl(2), since Linux 6.4
	if merged, err := unix.PrctlRetInt(getMemoryMerge, 0, 0, 0, 0); err == nil && merged != 0 {
		if err := unix.Prctl(setMemoryMerge, 0, 0, 0, 0); err != nil {
			return fmt.Errorf("keep the process's memory apart from others': %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process undumpable: %w", err)
	}
	if unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) == nil {
		return nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("turn core dumps off: %w", err)
	}
	return nil
}
