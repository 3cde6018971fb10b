package daemon

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"

	"golang.org/x/sys/unix"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/upflags"
)

const (
	// minFiles is what has to be free before anything new is taken, in files, for file
	// systems that count them: an instance takes some hundreds. In bytes it is --min-free.
	minFiles = 2048

	// firstRoom and firstFiles are what the first start needs beyond: the images of
	// the puller and of one runtime, packed and unpacked.
	firstRoom  = 448 << 20
	firstFiles = 16384
)

// room is how much has to be free on the disk of a folder.
type room struct {
	dir   string
	bytes uint64
	files uint64
	mend  string // how whoever runs it makes room
}

// Mends of a disk that has too little room, while apps can be removed and while nothing
// runs yet.
const (
	mendByRemoving = "make room there (cupel rm --app, cupel volume rm)"
	mendBefore     = "make room there, or put the state folder on another disk with --state"
)

// roomOf is what the flag asks for.
func (l layout) roomOf(minFree string) (room, error) {
	size, err := managerapi.ParseMemory(cmp.Or(minFree, upflags.MinFree))
	if err != nil {
		return room{}, problem.New(problem.Invalid, ruleMinFree, "--min-free %.40q", minFree).
			Want("a size of %s or more, which removals need", managerapi.FormatMemory(managerapi.MinMemory)).
			Fix("give a whole number and a unit, like %s", upflags.MinFree)
	}

	return room{l.dir, size, minFiles, mendByRemoving}, nil
}

// first is what the first start needs.
func (r room) first() room { return room{r.dir, r.bytes + firstRoom, r.files + firstFiles, mendBefore} }

// check refuses a disk that has less room, with the mend for whoever runs it. A disk
// that tells nothing is taken as it is.
func (r room) check() error {
	var stat unix.Statfs_t
	if unix.Statfs(r.dir, &stat) != nil {
		return nil
	}

	free := stat.Bavail * uint64(stat.Bsize)
	files := uint64(math.MaxUint64)
	if stat.Files > 0 { // some file systems make them as needed
		files = stat.Ffree
	}

	switch {
	case free < r.bytes:
		return problem.New(problem.Unavailable, diskerror.RuleFull, "%d MB are free on the disk of the state folder", free>>20).
			Want("at least %d MB", (r.bytes+1<<20-1)>>20).
			Fix("%s; what is needed is by cupel up --min-free", r.mend)
	case files < r.files:
		return problem.New(problem.Unavailable, diskerror.RuleFull, "the disk of the state folder has room for %d more files (inodes)", files).
			Want("at least %d", r.files).
			Fix("%s: df -i counts files; a file system may have too few for good", r.mend)
	}
	return nil
}

// checkRoom refuses a first start on a disk without room. An installation that served
// before comes up in any case, by what was kept aside: its apps run, and without
// it nobody could remove them.
func (p *parts) checkRoom(ctx context.Context) error {
	if _, err := os.Stat(p.path("manager.db")); errors.Is(err, fs.ErrNotExist) {
		return p.room.first().check()
	}

	if p.low = problem.From(p.room.check()); p.low != nil {
		p.reserve.release()
		p.log.WarnContext(ctx, "disk nearly full: nothing new is taken until there is room", "error", p.low)
	}
	return nil
}
