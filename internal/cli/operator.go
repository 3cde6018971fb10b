package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/problem"
)

// managerAs says with whose key a command talks to the manager.
type managerAs struct {
	g     *globals
	owner bool // --as-owner: not as the operator, even where we could
}

func (m *managerAs) flags(c *cobra.Command) {
	c.Flags().BoolVar(&m.owner, "as-owner", false, "use the owner's key even where the operator's can be read: see and touch only your own apps")
}

// dial returns a client of the manager: of this machine's as its operator if this
// user can read the operator's key, else as the owner; of a provider's as the owner.
func (m *managerAs) dial(ctx context.Context) (*manager.Client, managerAt, error) {
	at, err := m.g.manager(ctx)
	if err != nil {
		return nil, at, err
	}
	cert, err := m.certificate(ctx, at)
	if err != nil {
		return nil, at, err
	}
	return at.dial(cert), at, nil
}

func (m *managerAs) certificate(ctx context.Context, at managerAt) (*tls.Certificate, error) {
	if !m.owner && !at.remote() {
		pair, err := tls.LoadX509KeyPair(filepath.Join(m.g.state, "operator.crt"), filepath.Join(m.g.state, "operator.key"))
		if err == nil {
			return &pair, nil
		}
		if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
			return nil, problem.New(problem.Invalid, "operator_key", "%w", err).Fix("give --as-owner, or remove the damaged files: cupel up makes them anew")
		}
	}
	dir, err := m.g.ownerDir()
	if err != nil {
		return nil, err
	}
	id, err := m.g.identity(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &id.Certificate, nil
}

// execSibling becomes another binary of this build: signals, terminal and exit
// code are its own.
func (g *globals) execSibling(name string, args ...string) error {
	if err := g.here(); err != nil {
		return err
	}
	path, err := exec.LookPath(sibling(name))
	if err == nil {
		err = syscall.Exec(path, append([]string{name}, args...), os.Environ())
	}
	return problem.New(problem.NotFound, "program_missing", "%s is neither beside this program nor in PATH: %w", name, err).
		Fix("build it (make build) or install it beside cupel")
}

// forwarded returns the command line of cupeld for one of our commands, with
// every flag that was given.
func (g *globals) forwarded(c *cobra.Command) []string {
	args := []string{c.Name(), "--state", g.state, "--output", g.output}
	if f := c.Root().PersistentFlags().Lookup("log-level"); f != nil && f.Changed {
		args = append(args, "--log-level", g.logLevel)
	}
	own := c.LocalNonPersistentFlags() // a copy: what was given is known to Flags only
	c.Flags().Visit(func(f *pflag.Flag) {
		if own.Lookup(f.Name) != nil {
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	return args
}

// watched says whether a person watches the output as it comes.
func (g *globals) watched() bool { return isTerminal(g.out) }

// age writes how long ago t was, in one unit.
func (g *globals) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(0, g.now().Sub(t))
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}
