package rebuild

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleDebConflict        problem.Rule = "deb_conflict"
	ruleDebFormat          problem.Rule = "deb_format"
	ruleDebSpecialFile     problem.Rule = "deb_special_file"
	ruleImage              problem.Rule = "image"
	ruleIndexExpired       problem.Rule = "index_expired"
	ruleIndexFormat        problem.Rule = "index_format"
	ruleIndexHash          problem.Rule = "index_hash"
	ruleIndexIdentity      problem.Rule = "index_identity"
	ruleIndexMissing       problem.Rule = "index_missing"
	ruleIndexSignature     problem.Rule = "index_signature"
	ruleLockDefinition     problem.Rule = "lock_definition"
	rulePackageBytes       problem.Rule = "package_bytes"
	rulePackageMissing     problem.Rule = "package_missing"
	rulePackageOutdated    problem.Rule = "package_outdated"
	rulePackageUnsigned    problem.Rule = "package_unsigned"
	rulePackageUnwanted    problem.Rule = "package_unwanted"
	rulePackages           problem.Rule = "packages"
	rulePackagesUnresolved problem.Rule = "packages_unresolved"
	ruleRuntimeArtifact    problem.Rule = "runtime_artifact"
	ruleRuntimeLayout      problem.Rule = "runtime_layout"
	ruleRuntimeName        problem.Rule = "runtime_name"
	ruleSourceAddress      problem.Rule = "source_address"
	ruleSourceSize         problem.Rule = "source_size"
	ruleSourceUnreachable  problem.Rule = "source_unreachable"
)
