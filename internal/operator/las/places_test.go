package las

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/trusted/launch"
)

// running is the list of mounts of a launcher whose app runs: the profile's, what
// the low-level runtime masks, and its own.
const running = `1147 1146 0:50 / / ro,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/w
1148 1147 0:84 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1149 1147 0:85 / /dev rw,nosuid,noexec - tmpfs tmpfs rw,size=65536k,mode=755
1150 1149 0:86 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666
1151 1149 0:87 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=131072k
1152 1149 0:83 / /dev/mqueue rw,nosuid,nodev,noexec,relatime - mqueue mqueue rw
1153 1147 0:88 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
1154 1147 254:0 /state/etc/resolv.conf /etc/resolv.conf ro,nosuid,nodev,noexec,relatime - ext4 /dev/vda rw
1155 1147 254:0 /state/etc/hosts /etc/hosts ro,nosuid,nodev,noexec,relatime - ext4 /dev/vda rw
1156 1147 254:0 /state/run/i-1 /run/cupel ro,nosuid,nodev,noexec,relatime - ext4 /dev/vda rw
1157 1147 254:0 /state/launcher/x /cupel-init ro,nosuid,nodev,relatime - ext4 /dev/vda rw
1084 1148 0:84 /bus /proc/bus ro,nosuid,nodev,noexec,relatime - proc proc rw
1085 1148 0:84 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw
1086 1148 0:85 /null /proc/kcore rw,nosuid,noexec - tmpfs tmpfs rw,size=65536k,mode=755
1087 1148 0:89 / /proc/acpi ro,relatime - tmpfs tmpfs ro
1090 1149 0:90 / /dev/.cupel rw,nosuid,nodev,relatime - tmpfs cupel rw,size=1024k,mode=700
1091 1090 0:91 / /dev/.cupel/root rw,nosuid,nodev,relatime - tmpfs cupel rw,size=65536k,mode=700
1092 1090 0:92 / /dev/.cupel/volume/0 rw,nosuid,nodev,relatime - tmpfs cupel rw,size=65536k,mode=700
1093 1090 0:93 / /dev/.cupel/volume/1 rw,nosuid,nodev,relatime - tmpfs cupel rw,size=65536k,mode=700
`

// TestMounts: of a running launcher's mounts each is accounted for, and none of
// another kind or in another place is.
func TestMounts(t *testing.T) {
	b, err := launch.Spec(launch.Newest, launch.ImageConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var spec processSpec
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	there := []string{"/proc/bus", "/proc/sys", "/proc/kcore", "/proc/acpi"}
	hold := func(text string) error {
		mounts, err := parseMounts(text)
		if err != nil {
			return err
		}
		return holdMounts(mounts, spec, func(at string) bool { return slices.Contains(there, at) })
	}
	if err := hold(running); err != nil {
		t.Errorf("as it is: %v", err)
	}
	replace := func(old, with string) string {
		if !strings.Contains(running, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(running, old, with, 1)
	}
	line := func(s string) string { return running + "2000 1147 " + s + "\n" }
	for name, text := range map[string]string{
		"a bind mount":                 line("254:0 /tmp/evil /usr/bin/git ro,relatime - ext4 /dev/vda rw"),
		"a bind mount in staging":      line("254:0 /tmp/evil /dev/.cupel/evil rw,nosuid,nodev - ext4 /dev/vda rw"),
		"staging that is a disk":       replace("/dev/.cupel/root rw,nosuid,nodev,relatime - tmpfs cupel", "/dev/.cupel/root rw,nosuid,nodev,relatime - ext4 /dev/vda"),
		"a part of another memory":     replace("0:92 / /dev/.cupel/volume/0", "0:92 /evil /dev/.cupel/volume/0"),
		"a volume that is a disk":      replace("/dev/.cupel/volume/1 rw,nosuid,nodev,relatime - tmpfs cupel", "/dev/.cupel/volume/1 rw,nosuid,nodev,relatime - ext4 /dev/vda"),
		"a volume of another name":     replace("/dev/.cupel/volume/1 ", "/dev/.cupel/volume/01 "),
		"below a volume":               line("0:99 / /dev/.cupel/volume/0/x rw,nosuid,nodev - tmpfs cupel rw"),
		"the image's root of the app":  line("0:99 / /dev/.cupel/root/merged rw,nosuid,nodev - overlay cupel rw"),
		"a second mount over staging":  line("0:99 / /dev/.cupel rw,nosuid,nodev - tmpfs cupel rw"),
		"a second root":                line("0:99 / / ro - overlay overlay rw"),
		"hosts twice":                  line("254:0 /x /etc/hosts ro,nosuid,nodev,noexec - ext4 /dev/vda rw"),
		"writable hosts":               replace("/etc/hosts ro,", "/etc/hosts rw,"),
		"programs in shared memory":    replace("/dev/shm rw,nosuid,nodev,noexec", "/dev/shm rw,nosuid,nodev"),
		"a writable root":              replace("/ / ro,", "/ / rw,"),
		"shared with the machine":      replace("/dev rw,nosuid,noexec - ", "/dev rw,nosuid,noexec shared:5 - "),
		"what comes from the machine":  replace("/dev rw,nosuid,noexec - ", "/dev rw,nosuid,noexec master:5 - "),
		"a disk as /dev":               replace("/dev rw,nosuid,noexec - tmpfs", "/dev rw,nosuid,noexec - ext4"),
		"no mask":                      replace("1086 1148 0:85 /null /proc/kcore rw,nosuid,noexec - tmpfs tmpfs rw,size=65536k,mode=755\n", ""),
		"a mask that shows something":  replace("0:89 / /proc/acpi ro", "0:89 /x /proc/acpi ro"),
		"a writable mask":              replace("/proc/acpi ro,", "/proc/acpi rw,"),
		"a writable /proc/sys":         replace("/proc/sys ro,", "/proc/sys rw,"),
		"another place at /proc/sys":   replace("0:84 /sys /proc/sys", "0:84 /1 /proc/sys"),
		"a mount missing":              replace("1156 1147 254:0 /state/run/i-1 /run/cupel ro,nosuid,nodev,noexec,relatime - ext4 /dev/vda rw\n", ""),
		"a line that nobody can read":  line("x"),
		"nothing":                      "",
		"a path that looks like ours":  line("0:99 / /dev/.cupelx rw,nosuid,nodev - tmpfs cupel rw"),
		"a path with spaces":           line("0:99 / /dev/.cupel\\040 rw,nosuid,nodev - tmpfs cupel rw"),
		"part of proc in proc's place": replace("0:84 / /proc rw", "0:84 /1 /proc rw"),
	} {
		if err := hold(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCapabilityMask(t *testing.T) {
	for want, names := range map[string][]string{
		"0000000000000000": nil,
		"0000000000000001": {"CAP_CHOWN"},
		"0000000000200020": {"CAP_KILL", "CAP_SYS_ADMIN"},
		"0000010000000000": {"CAP_CHECKPOINT_RESTORE"},
	} {
		if got := capabilityMask(names); got != want {
			t.Errorf("%v: %s, want %s", names, got, want)
		}
	}
	if got := capabilityMask([]string{"CAP_CHOWN", "cap_chown"}); !strings.HasPrefix(got, "unknown") {
		t.Errorf("a name that the kernel doesn't know: %s", got)
	}
}

// TestProcessIsGone: a process that ended is no process that is as it should be.
func TestProcessIsGone(t *testing.T) {
	err := HoldProcess(1<<22+1, []byte(`{}`))
	if err == nil || !strings.Contains(err.Error(), string(RuleProcess)) {
		t.Errorf("%v", err)
	}
	if err := HoldProcess(1, []byte(`{"process":7}`)); err == nil || !strings.Contains(err.Error(), string(RuleProcess)) {
		t.Errorf("%v", err)
	}
}
