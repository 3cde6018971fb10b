package volume

import (
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

const (
	// pageSize is what a tmpfs rounds file contents up to.
	pageSize = 4096
	// shortLink is from how many bytes on a symbolic link takes a page.
	shortLink = 128
	// entryCost is what one name costs in kernel memory, roughly: inode and
	// directory entry.
	entryCost = 1024
)

// A Size is what a tree costs in memory.
type Size struct {
	Content uint64 // bytes of whole pages; holes cost nothing
	Names   uint64
}

// Total is the cost of both, in bytes.
func (s Size) Total() uint64 { return s.Content + s.Names*entryCost }

// Room splits limit, which is not below the size, for a file system that is to hold
// no more than what fits: so many bytes of content, and so many names. Of what is
// free a sixth goes to names, so that small files and large ones fit about as well.
func (s Size) Room(limit uint64) (content, names uint64) {
	free := limit - s.Total()
	more := free / (6 * entryCost)
	return s.Content + free - more*entryCost, s.Names + more
}

// meter adds up what a tree costs and refuses what exceeds limit.
type meter struct {
	Size

	length uint64 // of all files, holes included
	limit  uint64
}

// entry accounts for one name whose file is so long.
func (m *meter) entry(length int64) error {
	if length < 0 {
		return problem.New(problem.Invalid, RuleArchive, "a file of %d bytes", length)
	}
	m.Names++

	if n := uint64(length); n > wire.MaxLength*m.limit || m.length+n > wire.MaxLength*m.limit {
		return problem.New(problem.Invalid, wire.RuleVolumeTooLarge, "the volume's files are at least %d KiB long, holes included", (m.length+n)>>10).
			Want("at most %d KiB, %d times what the volume may take of the memory", wire.MaxLength*m.limit>>10, wire.MaxLength).
			Fix("give the instances a larger --memory, or keep shorter files in the volume")
	}
	m.length += uint64(length)
	return m.check()
}

// symlink accounts for a symbolic link to a target of so many bytes: a tmpfs keeps a
// short one with the name.
func (m *meter) symlink(target int64) error {
	if err := m.entry(0); err != nil || target < shortLink {
		return err
	}
	return m.pages(uint64(target))
}

// pages accounts for n bytes of content, of which a tmpfs keeps whole pages.
func (m *meter) pages(n uint64) error {
	m.Content += (n + pageSize - 1) / pageSize * pageSize
	return m.check()
}

func (m *meter) check() error {
	if m.Total() > m.limit {
		return TooLarge(m.Total(), m.limit)
	}
	return nil
}

// TooLarge is the refusal of a volume of at least n bytes where limit fit.
func TooLarge(n, limit uint64) error {
	return problem.New(problem.Invalid, wire.RuleVolumeTooLarge, "the volume takes at least %d KiB of memory", n>>10).
		Want("at most %d KiB: volumes take three quarters of the instance's memory limit, and share them", limit>>10).
		Fix("give the instances a larger --memory, or keep less in the volume")
}
