package registry

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleRegistryDenied  problem.Rule = "registry_denied"
	ruleRegistryFailed  problem.Rule = "registry_failed"
	ruleRegistryFolder  problem.Rule = "registry_folder"
	ruleRegistryMissing problem.Rule = "registry_missing"
	ruleVolumeSnapshot  problem.Rule = "volume_snapshot"
)
