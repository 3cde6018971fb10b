package registry

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// RuleDamaged: what the registry has is not what was stored there. Mend: build the runtime
	// anew, or put the registry's folder back from a backup, and look at the disk (dmesg).
	RuleDamaged problem.Rule = "registry_damaged"

	// ruleRegistryDenied: the registry refuses a request. Mend: write to it as root on its own
	// machine.
	ruleRegistryDenied problem.Rule = "registry_denied"

	// ruleRegistryFailed: the registry answers with an error of its own. Mend: look at its log and
	// its disk, then try again.
	ruleRegistryFailed problem.Rule = "registry_failed"

	// ruleRegistryFolder: the registry's folder can't be made where the state folder is. Mend: look
	// what is there (ls -ld) and move it away, or choose another state folder with --state.
	ruleRegistryFolder problem.Rule = "registry_folder"

	// ruleRegistryMissing: the registry has no such image, artifact or snapshot. Mend: build or push
	// it first, with cupel runtime build NAME.
	ruleRegistryMissing problem.Rule = "registry_missing"

	// ruleVolumeSnapshot: what is stored as a volume's snapshot is not made like one. Mend: look who
	// else wrote to the registry, and put its folder back from a backup.
	ruleVolumeSnapshot problem.Rule = "volume_snapshot"
)
