package daemon

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/cni"
	"cupel.dev/cupel/internal/wording"
)

// tools are the programs that other packages execute.
var tools = []struct{ program, debian string }{
	{"containerd", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"runc", "runc"},
}

// check refuses a machine that lacks something, before anything is started.
func (l layout) check() error {
	if os.Geteuid() != 0 {
		return problem.New(problem.Denied, ruleRoot, "not root").Fix("run it as root: sudo cupel up")
	}

	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			return problem.New(problem.Unavailable, problem.RuleToolMissing, "%s is not installed", t.program).
				Fix("apt-get install --no-remove %s", t.debian)
		}
	}

	for _, plugin := range []string{"bridge", "host-local", "loopback"} {
		if _, err := os.Stat(filepath.Join(cni.PluginDir, plugin)); err != nil {
			return problem.New(problem.Unavailable, problem.RuleToolMissing, "the CNI plugin %s is not installed", plugin).
				Fix("apt-get install --no-remove containernetworking-plugins")
		}
	}

	if b, err := os.ReadFile("/proc/filesystems"); err == nil && !bytes.Contains(b, []byte("\toverlay\n")) {
		// Where it is a module, mounting loads it.
		if exec.Command("modprobe", "overlay").Run() != nil {
			return problem.New(problem.Unavailable, ruleKernel, "the kernel has no overlayfs").Fix("boot a kernel with CONFIG_OVERLAY_FS")
		}
	}

	for _, ns := range []string{"net", "mnt", "pid", "ipc", "uts"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			return problem.New(problem.Unavailable, ruleKernel, "the kernel has no %s namespaces", ns)
		}
	}

	return l.reachable()
}

// reachable refuses a state folder that the CAS's user can't enter. What isn't
// there yet is no reason, so that a folder is refused before it is made.
func (l layout) reachable() error {
	for dir := l.dir; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return problem.New(problem.Invalid, problem.RuleStateFolder, "%w", err)
		}

		if err == nil && info.Mode().Perm()&0o001 == 0 {
			return problem.New(problem.Denied, ruleStateUnreachable, "the CAS runs as a user of its own, who can't enter %s", dir).
				Fix("choose a folder that every user can enter, such as /var/lib/cupel, with --state; or chmod o+x %s", wording.ShellWord(dir))
		}

		if dir == "/" {
			return nil
		}
	}
}

// checkFolder refuses a state folder that the CAS's user can't reach, or that is not
// root's alone: whoever may write to it or holds its name is root on this machine.
func (l layout) checkFolder() error {
	if err := l.reachable(); err != nil {
		return err
	}

	info, err := os.Stat(l.dir)
	if err != nil {
		return problem.New(problem.Invalid, problem.RuleStateFolder, "%w", err)
	}

	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return problem.New(problem.Denied, ruleStateOwner, "others than root may write to %s (%s)", l.dir, info.Mode()).
			Want("a folder of root's that nobody else may write to").
			Fix("look what is in it; if it is yours: chown root %s && chmod go-w %s; else name another folder with --state", wording.ShellWord(l.dir), wording.ShellWord(l.dir))
	}

	for dir := filepath.Dir(l.dir); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return problem.New(problem.Denied, ruleStateOwner, "everybody may rename what is in %s", dir).
				Want("a path that others can't change").
				Fix("chmod o-w %s, or name another folder with --state", wording.ShellWord(dir))
		}
		if dir == "/" {
			return nil
		}
	}
}
