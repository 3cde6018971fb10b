package diskerror

import "cupel.dev/cupel/api/problem"

// Rules of a disk that does not take what is written.
const (
	// RuleFull: there is no room on a disk, or a quota is used up.
	// Mend: make room on it (df -h and df -i show what is free), then try again.
	RuleFull problem.Rule = "disk_full"

	// RuleReadOnly: a disk takes no writes.
	// Mend: look at dmesg: where the kernel did that since the disk fails, check and mount it again; else mount it for writing.
	RuleReadOnly problem.Rule = "disk_read_only"

	// RuleFails: a disk fails, or was taken away.
	// Mend: look at dmesg, check the disk and mount it again; what can't be read any more comes from a backup.
	RuleFails problem.Rule = "disk_error"
)
