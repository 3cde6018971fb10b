package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/problem"
)

// A systemd unit has one installation come up with the machine. Its apps are no part
// of the unit: they live on when cupeld is restarted or dies, and are stopped in order,
// with their volumes stored, when the machine goes down.

// unitFolder is where an administrator's units are.
const unitFolder = "/etc/systemd/system"

// defaultState is the folder whose unit has the short name.
const defaultState = "/var/lib/cupel"

// clockPatience is how long the unit waits for a clock that isn't set yet, before it
// begins anew.
const clockPatience = 15 * time.Minute

// unit is the name of the installation's unit.
func (l layout) unit() string {
	if l.dir == defaultState {
		return "cupel.service"
	}
	return "cupel-" + l.id + ".service"
}

// unitText is the unit that runs this program with those flags of `up`.
func (l layout) unitText(program string, flags []string) []byte {
	up := append([]string{program, "up", "--state", l.dir, "--wait-clock", clockPatience.String()}, flags...)
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Made by cupel install-service; cupel uninstall-service removes it.
[Unit]
Description=Cupel on %s
Wants=network-online.target
After=network-online.target nss-lookup.target time-sync.target
RequiresMountsFor=%s
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=%s
# Apps stay while the service is restarted, and are stopped in order at shutdown.
ExecStop=%s
KillMode=process
Restart=on-failure
RestartSec=2
# Another cupeld runs on this folder.
RestartPreventExitStatus=%d
# It says itself how long it waits: for the clock, for the CAS, for volumes.
TimeoutStartSec=infinity
TimeoutStopSec=%d
LimitNOFILE=1048576
TasksMax=infinity
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
`, unitValue(l.dir), unitWord(l.dir), unitLine(up), unitLine([]string{program, "down", "--state", l.dir, "--at-shutdown"}),
		codeRuns, int(unitTimeout.Seconds()))
	return b.Bytes()
}

func unitLine(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = unitWord(a)
		if i > 0 {
			words[i] = strings.ReplaceAll(words[i], "$", "$$") // no variable of the unit's
		}
	}
	return strings.Join(words, " ")
}

// unitWord quotes a word of a unit (systemd.syntax(7), systemd.service(5)).
func unitWord(s string) string {
	s = unitValue(s)
	if s != "" && !strings.ContainsAny(s, " \t\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// unitValue keeps systemd from replacing what begins with a percent sign.
func unitValue(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// installService writes the unit and has it started with the machine.
func (l layout) installService(ctx context.Context, text []byte) error {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return problem.New(problem.Unavailable, "no_systemd", "systemd doesn't run this machine").
			Fix("see the unit with --print, and have your init system run its ExecStart at boot")
	}
	if err := atomicfile.Write(filepath.Join(unitFolder, l.unit()), text, 0o644); err != nil {
		return problem.New(problem.Unavailable, "service", "%w", err).Fix("make %s writable", unitFolder)
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	return systemctl(ctx, "enable", l.unit())
}

// uninstallService removes the unit; what runs goes on. It tells whether there was one.
func (l layout) uninstallService(ctx context.Context) (bool, error) {
	file := filepath.Join(unitFolder, l.unit())
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	wants := filepath.Join(unitFolder, "multi-user.target.wants", l.unit())
	if err := errors.Join(ignoreMissing(os.Remove(wants)), ignoreMissing(os.Remove(file))); err != nil {
		return false, problem.New(problem.Unavailable, "service", "%w", err).Fix("remove %s", file)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return true, nil
	}
	return true, systemctl(ctx, "daemon-reload")
}

func systemctl(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return problem.New(problem.Unavailable, "service", "systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out)).
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

// lastSeen is the newest time that this machine's clock has surely had: when something
// of the installation was written, or its program was installed.
func (l layout) lastSeen() time.Time {
	files := []string{l.lockFile(), l.path("manager.db"), l.path("manager.db-wal"), l.path("ports.json")}
	for _, pattern := range []string{l.path("cas", "*"), l.path("log", "*")} {
		found, _ := filepath.Glob(pattern) // the pattern is valid
		files = append(files, found...)
	}
	if self, err := os.Executable(); err == nil {
		files = append(files, self)
	}
	var last time.Time
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// waitClock waits until the clock is not before what was seen already. A machine without
// a battery for it begins in the past, until it has asked the network.
func waitClock(ctx context.Context, seen time.Time, patience time.Duration, tell func(string)) error {
	deadline := time.After(patience)
	for told := false; time.Now().Before(seen.Add(-time.Second)); {
		if !told {
			told = true
			tell(fmt.Sprintf("waiting for the clock: it says %s, and something here was written at %s", stamp(time.Now()), stamp(seen)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return problem.New(problem.Unavailable, "clock_not_set", "the clock says %s, and something here was written at %s", stamp(time.Now()), stamp(seen)).
				Fix("set it (timedatectl, chrony), then run this again")
		case <-time.After(time.Second):
		}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

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
			flags := slices.DeleteFunc(args[2:], func(a string) bool { return strings.HasPrefix(a, "--print=") })
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			text := l.unitText(self, flags)
			if show {
				_, err := c.out.Write(text)
				return err
			}
			if err := l.check(); err != nil {
				return err
			}
			if err := l.installService(cmd.Context(), text); err != nil {
				return err
			}
			return c.say(map[string]string{"unit": l.unit()},
				"%s comes up with this machine from now on. Now: systemctl start %s (end a cupeld that runs already with SIGTERM before: its apps go on)\n", l.unit(), l.unit())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&show, "print", false, "only print the unit")
	c.runFlags(f)
	return cmd
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
				return problem.New(problem.Denied, "root", "not root").Fix("run it as root, with sudo")
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
