package rebuild

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleDebConflict: two packages have one path, with contents of their own. Mend: exclude one of
	// the packages, or drop the path, in the definition. Kind: denied.
	ruleDebConflict problem.Rule = "deb_conflict"

	// ruleDebFormat: a package is not made as deb(5) says, or has paths that lead out of it. Mend:
	// leave the package out of the definition. Kind: denied.
	ruleDebFormat problem.Rule = "deb_format"

	// ruleDebSpecialFile: a package has a device, a FIFO or an entry of an unknown kind. Mend: leave
	// the package out of the definition. Kind: denied.
	ruleDebSpecialFile problem.Rule = "deb_special_file"

	// ruleImage: the check that the image was built, named by its config's digest. Mend: compare the
	// digest with what runs. Kind: event.
	ruleImage problem.Rule = "image"

	// ruleIndexExpired: a mirror serves an index that is no longer valid: it is behind, or somebody
	// holds security fixes back. Mend: choose another with --mirror, and check this machine's clock.
	ruleIndexExpired problem.Rule = "index_expired"

	// ruleIndexFormat: a list of packages that Debian signed for can't be read. Mend: take a newer
	// cupel, or report the list.
	ruleIndexFormat problem.Rule = "index_format"

	// ruleIndexHash: a list of packages is not the one that Debian signed for. Mend: don't use this
	// lock; write a new one with cupel runtime build NAME --update.
	ruleIndexHash problem.Rule = "index_hash"

	// ruleIndexIdentity: a signed index stands in another one's place. Mend: don't use this lock, or
	// choose another mirror with --mirror.
	ruleIndexIdentity problem.Rule = "index_identity"

	// ruleIndexMissing: the lock doesn't name the release, its updates and its security fixes. Mend:
	// write a new lock with cupel runtime build NAME --update.
	ruleIndexMissing problem.Rule = "index_missing"

	// ruleIndexSignature: an index has no signature by one of Debian's archive keys. Mend: don't use
	// this lock, or choose another mirror with --mirror.
	ruleIndexSignature problem.Rule = "index_signature"

	// ruleLockDefinition: the lock was written for another definition. Mend: compare the definitions;
	// if yours is right, run cupel runtime build NAME --update.
	ruleLockDefinition problem.Rule = "lock_definition"

	// rulePackageBytes: the check that all packages have the bytes that Debian signed for. Mend:
	// take another source where one has not. Kind: event.
	rulePackageBytes problem.Rule = "package_bytes"

	// rulePackageMissing: the lock leaves out a package that the definition needs. Mend: write a new
	// lock with cupel runtime build NAME --update.
	rulePackageMissing problem.Rule = "package_missing"

	// rulePackageOutdated: the lock has an older version of a package than its own indices offer.
	// Mend: write a new lock with cupel runtime build NAME --update.
	rulePackageOutdated problem.Rule = "package_outdated"

	// rulePackageUnsigned: the lock has a package that is in none of Debian's signed indices. Mend:
	// don't use this lock, it was tampered with.
	rulePackageUnsigned problem.Rule = "package_unsigned"

	// rulePackageUnwanted: the lock adds a package that nothing in the definition depends on. Mend:
	// write a new lock with cupel runtime build NAME --update.
	rulePackageUnwanted problem.Rule = "package_unwanted"

	// rulePackages: the check that the lock has exactly the packages that the definition means. Mend:
	// where it has not, run cupel runtime build NAME --update. Kind: event.
	rulePackages problem.Rule = "packages"

	// rulePackagesUnresolved: the indices don't have what the definition's packages depend on. Mend:
	// correct packages and exclude in the definition.
	rulePackagesUnresolved problem.Rule = "packages_unresolved"

	// ruleRuntimeArtifact: a registry's artifact is not the sources of a runtime. Mend: name the
	// artifact that the lock names, or another registry.
	ruleRuntimeArtifact problem.Rule = "runtime_artifact"

	// ruleRuntimeLayout: a path that the definition adds can't be where it says. Mend: correct the
	// definition.
	ruleRuntimeLayout problem.Rule = "runtime_layout"

	// ruleRuntimeName: the name of a runtime has other characters than it may have, or too many.
	// Mend: write 1 to 63 of a-z 0-9 -.
	ruleRuntimeName problem.Rule = "runtime_name"

	// ruleSourceAddress: the address of a source can't be read as a URL. Mend: write it as
	// HOST[:PORT], or as http://HOST.
	ruleSourceAddress problem.Rule = "source_address"

	// ruleSourceSize: a lock, definition or signed index has more bytes than are read. Mend: take
	// another source.
	ruleSourceSize problem.Rule = "source_size"

	// ruleSourceUnreachable: a source can't be reached, or its answer is an error or breaks off. Mend:
	// check the address and the network and try again, or take another source.
	ruleSourceUnreachable problem.Rule = "source_unreachable"
)
