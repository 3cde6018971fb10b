package wire

// Budget is how much of an instance's memory limit its volumes may take
// together, in bytes: three quarters, since the app needs some too. The rest
// of the split: see RootSize.
func Budget(memoryLimit uint64) uint64 { return memoryLimit / 4 * 3 }

// RootSize is how much of the memory limit the app may write into its root
// outside of volumes, in bytes.
func RootSize(memoryLimit uint64) uint64 { return memoryLimit / 4 }

// MaxLength is how long all files may be together, holes included, in units of the
// limit: a hole costs no memory, but as many bytes of a snapshot as any other.
const MaxLength = 8

// MaxSnapshot is the most bytes that the sealed archive of a volume takes that costs
// at most limit: content, holes and all, headers, which are longer than names cost, and
// what sealing adds.
func MaxSnapshot(limit uint64) uint64 { return (MaxLength*limit + 2*limit + 1<<20) / 10 * 11 }
