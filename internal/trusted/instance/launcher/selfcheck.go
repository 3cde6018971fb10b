package launcher

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// What the launcher can see of itself it checks itself, on every platform: a
// measurement says what was asked for, and whoever carries it out may have done
// something else. What it can't know (its arguments, environment and folder as
// measured, its root and namespaces) is held against the measured launch by
// what measures it.

// profileCapabilities are the launcher's by the launch profile.
var profileCapabilities = capabilitySet(
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_KILL, unix.CAP_SETFCAP, unix.CAP_SETGID,
	unix.CAP_SETPCAP, unix.CAP_SETUID, unix.CAP_SYS_ADMIN, unix.CAP_SYS_NICE,
)

func capabilitySet(caps ...int) uint64 {
	var set uint64
	for _, c := range caps {
		set |= 1 << c
	}
	return set
}

// checkSelf refuses a launcher that was started with other rights than the
// launch profile's, or under another filter.
func checkSelf() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	if err := checkUser(); err != nil {
		return err
	}
	if err := checkCapabilities(); err != nil {
		return err
	}
	if err := checkProcess(); err != nil {
		return err
	}
	return checkFilter()
}

func checkUser() error {
	u, err := ownUser()
	if err != nil {
		return err
	}
	if u != (userIDs{}) {
		return otherLaunch(ruleLaunchUser, "it runs as user %d:%d, with groups %v", u.uid, u.gid, u.others).Want("root, without further groups")
	}
	return nil
}

// userIDs is who a thread is.
type userIDs struct {
	uid, gid [3]uint32 // real, effective, saved
	others   bool      // it has supplementary groups beside root's
}

func ownUser() (userIDs, error) {
	var u userIDs
	for i, id := range three(unix.Getresuid()) {
		u.uid[i] = uint32(id)
	}
	for i, id := range three(unix.Getresgid()) {
		u.gid[i] = uint32(id)
	}

	groups, err := unix.Getgroups()
	if err != nil {
		return u, fmt.Errorf("read own groups: %w", err)
	}
	for _, g := range groups {
		u.others = u.others || g != 0
	}
	return u, nil
}

func three(a, b, c int) [3]int { return [3]int{a, b, c} }

// capabilities are a thread's five sets.
type capabilities struct {
	effective, permitted, inheritable, bounding, ambient uint64
}

func ownCapabilities() (capabilities, error) {
	var c capabilities
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return c, fmt.Errorf("read own capabilities: %w", err)
	}

	join := func(low, high uint32) uint64 { return uint64(low) | uint64(high)<<32 }
	c.effective = join(data[0].Effective, data[1].Effective)
	c.permitted = join(data[0].Permitted, data[1].Permitted)
	c.inheritable = join(data[0].Inheritable, data[1].Inheritable)

	for n := range uintptr(64) {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, n, 0, 0, 0)
		if err != nil {
			break // beyond the last capability of this kernel
		}
		ambient, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, n, 0, 0)
		if err != nil {
			return c, fmt.Errorf("read own capabilities: %w", err)
		}

		c.bounding |= uint64(has&1) << n
		c.ambient |= uint64(ambient&1) << n
	}
	return c, nil
}

func checkCapabilities() error {
	got, err := ownCapabilities()
	if err != nil {
		return err
	}

	p := profileCapabilities
	if want := (capabilities{effective: p, permitted: p, bounding: p}); got != want {
		return otherLaunch(ruleLaunchCapabilities, "its capabilities are %v", got).Want("%v", want)
	}
	return nil
}

// String is for people: the kernel's own notation.
func (c capabilities) String() string {
	return fmt.Sprintf("effective %x, permitted %x, inheritable %x, bounding %x, ambient %x",
		c.effective, c.permitted, c.inheritable, c.bounding, c.ambient)
}

// checkProcess looks at what the launcher's descendants can't shed or would
// inherit.
func checkProcess() error {
	for _, c := range []struct {
		what string
		ask  int
		want int
	}{
		{"no_new_privs", unix.PR_GET_NO_NEW_PRIVS, 1},
		{"its securebits", unix.PR_GET_SECUREBITS, 0},
		{"its seccomp mode", unix.PR_GET_SECCOMP, unix.SECCOMP_MODE_FILTER},
		{"dumpable", unix.PR_GET_DUMPABLE, 0},
	} {
		got, err := unix.PrctlRetInt(c.ask, 0, 0, 0, 0)
		if err != nil {
			return fmt.Errorf("read %s: %w", c.what, err)
		}

		if got != c.want {
			return otherLaunch(ruleLaunchPrivileges, "%s is %d", c.what, got).Want("%d", c.want)
		}
	}

	var cores unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_CORE, nil, &cores); err != nil {
		return fmt.Errorf("read the limit of core files: %w", err)
	}
	if cores.Max > 1 {
		return otherLaunch(ruleLaunchLimits, "core files may have %d bytes", cores.Max).Want("at most 1, which is none")
	}
	return nil
}

// checkDropped confirms what dropPrivileges did: a filter can answer that a call
// succeeded and not let it happen.
func checkDropped(u appUser) error {
	got, err := ownUser()
	if err != nil {
		return err
	}

	caps, err := ownCapabilities()
	if err != nil {
		return err
	}

	uid, gid := uint32(u.UID), uint32(u.GID)
	if got.uid != [3]uint32{uid, uid, uid} || got.gid != [3]uint32{gid, gid, gid} || caps != (capabilities{}) {
		return otherLaunch(ruleLaunchFilter, "the app's process stays user %d:%d with %v", got.uid, got.gid, caps).
			Want("user %d:%d without capabilities", uid, gid)
	}
	return nil
}

func otherLaunch(rule problem.Rule, format string, args ...any) *problem.Error {
	return problem.New(problem.Denied, rule, "the launcher wasn't started by the launch profile: "+format, args...).
		Fix("start the instance by the launch profile that this launcher was built with; deploying again does")
}
