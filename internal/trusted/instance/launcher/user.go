package launcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/problem"
)

// appUser is who the app runs as.
type appUser struct {
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Groups []int  `json:"groups"` // supplementary, the primary one among them
	Home   string `json:"home"`
}

// lookupUser resolves an image's USER by the image's own files, as container
// engines do: "", "name", "uid", either with ":group" or ":gid". A name must
// be listed; a number need not be. With a group given, the groups that list the
// user don't count. The primary group is among the supplementary ones too, so
// that an app can't get rid of it where a file's mode denies its group.
func lookupUser(root fs.FS, spec string) (appUser, error) {
	passwd, err := readLines(root, "etc/passwd")
	if err != nil {
		return appUser{}, err
	}

	group, err := readLines(root, "etc/group")
	if err != nil {
		return appUser{}, err
	}

	name, groupName, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}

	u := appUser{Home: "/", Groups: []int{}}
	uid, numeric := number(name)
	found := false
	for _, f := range passwd { // name:password:uid:gid:gecos:home:shell
		id, ok := field(f, 2)
		if ok && (f[0] == name || (numeric && id == uid)) {
			u.UID = id
			found = true
			u.GID, _ = field(f, 3)
			name = f[0]
			if len(f) > 5 && strings.HasPrefix(f[5], "/") {
				u.Home = f[5]
			}
			break
		}
	}

	switch {
	case !found && !numeric:
		return appUser{}, unknownUser("user", name)
	case !found:
		u.UID = uid
	}

	if hasGroup {
		u.GID, err = lookupGroup(group, groupName)
		u.Groups = []int{u.GID}
		return u, err
	}

	u.Groups = []int{u.GID}
	for _, f := range group { // name:password:gid:members
		gid, ok := field(f, 2)
		if ok && len(f) > 3 && slices.Contains(strings.Split(f[3], ","), name) && gid != u.GID {
			u.Groups = append(u.Groups, gid)
		}
	}
	return u, nil
}

func lookupGroup(group [][]string, name string) (int, error) {
	for _, f := range group {
		if gid, ok := field(f, 2); ok && f[0] == name {
			return gid, nil
		}
	}

	if gid, ok := number(name); ok {
		return gid, nil
	}
	return 0, unknownUser("group", name)
}

func unknownUser(what, name string) error {
	return problem.New(problem.Invalid, ruleImageUser, "the image knows no %s %q", what, clip(name)).
		Want("one of its /etc/passwd and /etc/group, or a number").
		Fix("mend USER in the image's definition")
}

// number reads a user or group id; the last one means "none" to the kernel.
func number(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && n < 1<<32-1
}

func field(f []string, i int) (int, bool) {
	if len(f) <= i {
		return 0, false
	}
	return number(f[i])
}

// readLines splits a file of colon-separated fields; a missing one is empty.
func readLines(root fs.FS, name string) ([][]string, error) {
	b, err := fs.ReadFile(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the image's users: %w", err)
	}

	var out [][]string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, strings.Split(line, ":"))
		}
	}
	return out, nil
}

// imageFS is the image's root as the launcher sees it. Symbolic links in it
// are followed as the kernel does.
func imageFS() fs.FS { return os.DirFS("/") }
