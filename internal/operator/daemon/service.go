package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// unitFolder is where an administrator's units are.
const unitFolder = "/etc/systemd/system"

// installed is what there is of the unit now, and what was done for it.
type installed struct {
	Unit    string   `json:"unit"`
	File    string   `json:"file"`
	Wrote   bool     `json:"wrote"`             // else it was there like that
	Differs []string `json:"differs,omitempty"` // from the one before: its lines after "- ", the new ones after "+ "
	Enabled string   `json:"enabled"`           // whether it starts with the machine, in systemd's word
	Was     string   `json:"was"`               // the same, before
}

// installService writes the unit and has it started with the machine. One that is there
// like that already stays as it is.
func (l layout) installService(ctx context.Context, text []byte) (installed, error) {
	done := installed{Unit: l.unit(), File: filepath.Join(unitFolder, l.unit())}
	if !systemdRuns() {
		return done, problem.New(problem.Unavailable, ruleNoSystemd, "systemd doesn't run this machine").
			Fix("see the unit with --print, and have your init system run its ExecStart at boot")
	}

	before, err := l.readUnit()
	if err != nil {
		return done, err
	}

	done.Was = l.enabled(ctx)
	if !bytes.Equal(before, text) {
		if before != nil {
			done.Differs = differingLines(before, text)
		}
		if err := l.writeUnit(ctx, text); err != nil {
			return done, err
		}
		done.Wrote = true
	}

	if done.Was != "enabled" {
		if err := systemctl(ctx, "enable", l.unit()); err != nil {
			return done, err
		}
	}

	if done.Enabled = l.enabled(ctx); done.Enabled != "enabled" {
		return done, problem.New(problem.Unavailable, problem.RuleService, "%s is %s after systemctl enable", l.unit(), cmp.Or(done.Enabled, "unknown")).
			Want("enabled, so that it starts with the machine").Fix("look at 'systemctl status %s', then run this again", l.unit())
	}
	return done, nil
}

// readUnit is the unit as it was made here; nil: there is none. What others made under
// its name is refused.
func (l layout) readUnit() ([]byte, error) {
	file := filepath.Join(unitFolder, l.unit())
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}

	var text []byte
	if err == nil && info.Mode().IsRegular() {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, problem.New(problem.Unavailable, problem.RuleService, "%w", err).Fix("make %s readable", file)
	}

	if !bytes.HasPrefix(text, []byte(unitMark)) {
		return nil, problem.New(problem.Conflict, problem.RuleService, "%s is there, and wasn't made by install-service (or the unit is masked)", file).
			Fix("see what it is, and remove it (systemctl unmask %s); settings of yours beside the unit's: systemctl edit %s", l.unit(), l.unit())
	}
	return text, nil
}

// writeUnit puts the unit in place, and has systemd read it.
func (l layout) writeUnit(ctx context.Context, text []byte) error {
	if err := atomicfile.Write(filepath.Join(unitFolder, l.unit()), text, 0o644); err != nil {
		return problem.New(problem.Unavailable, problem.RuleService, "%w", err).Fix("make %s writable", unitFolder)
	}
	return systemctl(ctx, "daemon-reload")
}

// enabled is systemd's word for whether the unit starts with the machine.
func (l layout) enabled(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, "systemctl", "is-enabled", l.unit()).Output() // its code says the same
	return strings.TrimSpace(string(out))
}

// runsIt reports whether a process is the unit's own.
func (l layout) runsIt(ctx context.Context, pid int) bool {
	out, _ := exec.CommandContext(ctx, "systemctl", "show", "--property", "MainPID", "--value", l.unit()).Output()
	return strings.TrimSpace(string(out)) == strconv.Itoa(pid)
}

// systemdRuns reports whether systemd runs this machine (sd_booted(3)).
func systemdRuns() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// differingLines are the lines that only one of two texts has.
func differingLines(before, after []byte) []string {
	old, now := strings.Split(string(before), "\n"), strings.Split(string(after), "\n")
	var out []string

	for _, line := range old {
		if !slices.Contains(now, line) {
			out = append(out, "- "+line)
		}
	}
	for _, line := range now {
		if !slices.Contains(old, line) {
			out = append(out, "+ "+line)
		}
	}

	return out
}

// renewTimeout is how long a start waits for systemd to read a unit.
const renewTimeout = 10 * time.Second

// renewService makes a unit of an earlier release as this one makes it, with the flags
// that it has, and says so; and one that is older than the installation. Empty: there is
// nothing to say.
func (l layout) renewService(ctx context.Context) string {
	text, err := l.readUnit()
	if err != nil || text == nil {
		return ""
	}

	self, err := os.Executable()
	if err != nil {
		return ""
	}

	now, flags, ok := l.renewed(text, self)
	if bytes.Equal(now, text) {
		return ""
	}

	again := l.install(flags)
	if !ok {
		return l.unit() + " is of an earlier release, or was changed: make it anew with " + again
	}

	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	if err := l.writeUnit(ctx, now); err != nil {
		return fmt.Sprintf("%s is of an earlier release, and could not be made anew (%v): %s", l.unit(), err, again)
	}
	return l.unit() + " was made before this installation or release, or named a program that is gone: it is made anew, with the same flags"
}

// serviceKeys is unitKeys of the unit that is there, for a start that is not the unit's own.
func (l layout) serviceKeys(o Options) string {
	text, err := l.readUnit()
	if err != nil || !o.OwnGroup {
		return ""
	}
	return l.unitKeys(text, o.DeployKeys)
}

// uninstallService removes the unit; what runs goes on. It tells whether there was one.
func (l layout) uninstallService(ctx context.Context) (bool, error) {
	file := filepath.Join(unitFolder, l.unit())
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}

	wants := filepath.Join(unitFolder, "multi-user.target.wants", l.unit())
	if err := errors.Join(ignoreMissing(os.Remove(wants)), ignoreMissing(os.Remove(file))); err != nil {
		return false, problem.New(problem.Unavailable, problem.RuleService, "%w", err).Fix("remove %s", file)
	}

	if !systemdRuns() {
		return true, nil
	}
	return true, systemctl(ctx, "daemon-reload")
}

// systemctl has systemd do something.
func systemctl(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return problem.New(problem.Unavailable, problem.RuleService, "systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out)).
			Fix("mend that, then run this again")
	}
	return nil
}

// shuttingDown reports whether systemd takes the machine down.
func shuttingDown(ctx context.Context) bool {
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // its code says the same
	return strings.TrimSpace(string(out)) == "stopping"
}

// notifyReady tells the service manager that started us that we serve (sd_notify(3)).
func notifyReady(socket string) error {
	if socket == "" {
		return nil
	}

	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"}) // "@": abstract, in both
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}

	_, err = conn.Write([]byte("READY=1\n"))
	return errors.Join(err, conn.Close())
}

func (c *cli) installServiceCommand() *cobra.Command {
	var show bool
	cmd := &cobra.Command{
		Use:   "install-service",
		Short: "Have systemd run this installation from boot on, with these flags of up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			args, err := c.arguments(cmd)
			if err != nil {
				return err
			}

			l, err := newLayout(c.opts.State)
			if err != nil {
				return err
			}
			if err := c.given(cmd); err != nil {
				return err
			}

			if err := errors.Join(checkOptions(c.opts), l.keysMissing(c.opts)); err != nil { // as up would, before anything is written
				return err
			}

			flags := slices.DeleteFunc(args[2:], func(a string) bool { return strings.HasPrefix(a, "--print=") })
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			if err := fitsUnit(append([]string{l.dir, self}, flags...)); err != nil {
				return err
			}

			text := l.unitText(self, flags)
			if show {
				return c.say(map[string]string{"unit": l.unit(), "text": string(text)}, "%s", text)
			}

			if err := l.check(); err != nil {
				return err
			}
			done, err := l.installService(cmd.Context(), text)
			if err != nil {
				return err
			}
			return c.say(done, "%s", l.installedText(cmd.Context(), done))
		},
	}

	f := cmd.Flags()
	f.BoolVar(&show, "print", false, "only print the unit")
	c.runFlags(f)
	return cmd
}

// installedText tells a person what was done, and what holds when.
func (l layout) installedText(ctx context.Context, done installed) string {
	var b strings.Builder
	switch {
	case !done.Wrote:
		fmt.Fprintf(&b, "%s is there with just these flags\n", done.File)
	case done.Differs != nil:
		fmt.Fprintf(&b, "%s is written anew; the one before differed:\n", done.File)
		for _, line := range done.Differs {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	default:
		fmt.Fprintf(&b, "%s is written\n", done.File)
	}

	before := ""
	if done.Was == "enabled" {
		before = ", as before"
	}
	fmt.Fprintf(&b, "it is enabled%s: this installation comes up with the machine\n", before)

	e, err := client.ReadEndpoint(l.dir)
	// After a power cut its number may be another program's.
	runs := err == nil && l.holds(e.PID)
	switch own := runs && l.runsIt(ctx, e.PID); {
	case own && done.Wrote:
		fmt.Fprintf(&b, "for it to hold now: systemctl restart %s (its apps go on)\n", done.Unit)
	case own: // and nothing is to be done
	case runs:
		fmt.Fprintf(&b, "now: kill %d && systemctl start %s (process %d serves already; its apps go on)\n", e.PID, done.Unit, e.PID)
	default:
		fmt.Fprintf(&b, "now: systemctl start %s\n", done.Unit)
	}
	return b.String()
}

func (c *cli) uninstallServiceCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "uninstall-service",
		Short: "Undo install-service; what runs goes on",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := newLayout(c.opts.State)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return problem.New(problem.Denied, ruleRoot, "not root").Fix("run it as root, with sudo")
			}

			was, err := l.uninstallService(cmd.Context())
			if err != nil {
				return err
			}

			if !was {
				return c.say(map[string]string{"unit": ""}, "there is no %s\n", l.unit())
			}
			return c.say(map[string]string{"unit": l.unit()}, "%s is removed; what runs goes on\n", l.unit())
		},
	}
}
