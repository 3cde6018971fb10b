package volume

import (
	"cupel.dev/cupel/internal/trusted/problem"
)

// RuleTooLarge refuses a volume that does not fit into an instance's memory.
const RuleTooLarge = "volume_too_large"

const (
	// pageSize is what a tmpfs rounds file contents up to.
	pageSize = 4096
	// entryCost is what one name costs in kernel memory, roughly: inode and
	// directory entry.
	entryCost = 1024
)

// Budget is how much of an instance's memory limit its volumes may take
// together, in bytes: three quarters, since the app needs some too. The rest
// of the split: see RootSize.
func Budget(memoryLimit uint64) uint64 { return memoryLimit / 4 * 3 }

// RootSize is how much of the memory limit the app may write into its root
// outside of volumes, in bytes.
func RootSize(memoryLimit uint64) uint64 { return memoryLimit / 4 }

// meter adds up what a tree costs in memory and refuses what exceeds limit.
type meter struct {
	used, limit uint64
}

// add accounts for one entry with size bytes of content.
func (m *meter) add(size int64) error {
	if size < 0 {
		return problem.New(problem.Invalid, RuleArchive, "a file of %d bytes", size)
	}
	n := uint64(size)
	if n > m.limit || m.used > m.limit { // before rounding, which could overflow
		return m.tooLarge(m.used + n)
	}
	m.used += (n+pageSize-1)/pageSize*pageSize + entryCost
	if m.used > m.limit {
		return m.tooLarge(m.used)
	}
	return nil
}

func (m *meter) tooLarge(n uint64) error { return TooLarge(n, m.limit) }

// TooLarge is the refusal of a volume of at least n bytes where limit fit.
func TooLarge(n, limit uint64) error {
	return problem.New(problem.Invalid, RuleTooLarge, "the volume takes at least %d KiB of memory", n>>10).
		Want("at most %d KiB, three quarters of the instance's memory limit", limit>>10).
		Fix("give the instances a larger --memory, or keep less in the volume")
}
