package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// layout is a state folder and every name that is derived from it, so that
// several installations live on one machine.
type layout struct {
	dir string // absolute, without symbolic links
	id  string // 8 hex digits

	nowhere *leadsNowhere // the link on the way to it at whose end nothing is
}

// newLayout is the layout of the folder that a name leads to.
func newLayout(state string) (layout, error) {
	dir, err := filepath.Abs(state)
	if err != nil {
		return layout{}, problem.New(problem.Invalid, problem.RuleStateFolder, "%w", err)
	}

	dir, dead := atomicfile.Follow(dir)
	l := layoutAt(dir)
	if dead != nil {
		l.nowhere = &leadsNowhere{dead.Path, dead.Target}
	}
	return l, nil
}

// layoutAt is the layout of a folder by that very name.
func layoutAt(dir string) layout {
	sum := sha256.Sum256([]byte(dir))
	return layout{dir: dir, id: hex.EncodeToString(sum[:4])}
}

// path is something in the folder.
func (l layout) path(parts ...string) string {
	return filepath.Join(append([]string{l.dir}, parts...)...)
}

// Names on the machine that tell this installation from others: containerd's namespace,
// the table of packet rules, the instances' control group, their bridge.
func (l layout) namespace() string   { return "cupel-" + l.id }
func (l layout) table() string       { return "cupel_" + l.id }
func (l layout) cgroup() cgroup.Path { return cgroup.Path("/cupel-" + l.id) }
func (l layout) bridge() string      { return "cpl" + l.id }

// casUser is the numeric user of the CAS: without a name, unlike any other's. It is
// kept, so that a moved folder keeps its owner; where the file is gone or damaged, the
// owner of the CAS's folder is that user.
func (l layout) casUser() (int, error) {
	file := l.path("cas.uid")
	b, err := atomicfile.Read(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("user of the CAS: %w", err)
	}
	if uid, ok := parseUser(b); ok {
		return uid, nil
	}

	uid := 0
	if info, err := os.Stat(l.path("cas")); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			uid = int(st.Uid)
		}
	}

	if uid < 1000 {
		n, _ := strconv.ParseUint(l.id, 16, 32) // 8 hex digits
		uid = freeUser(int(n % casUsers))
	}

	return uid, atomicfile.Write(file, []byte(strconv.Itoa(uid)+"\n"), 0o644)
}

// parseUser reads what casUser wrote.
func parseUser(b []byte) (uid int, ok bool) {
	uid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return uid, err == nil && uid >= 1000
}

// casUsers users from firstCASUser on are for CASes: numbers that neither
// distributions nor systemd (which takes 61184 to 65519 for services that get a
// user while they run) give to anybody else.
const (
	firstCASUser = 60578
	casUsers     = 128
)

// freeUser is the first user without a name, from the given one on.
func freeUser(from int) int {
	for i := range casUsers {
		uid := firstCASUser + (from+i)%casUsers
		if _, err := user.LookupId(strconv.Itoa(uid)); err != nil {
			return uid
		}
	}
	return firstCASUser + from
}
