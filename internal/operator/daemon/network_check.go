package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/balance"
	"cupel.dev/cupel/internal/operator/netcheck"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/node/cni"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/wording"
)

// This file is the check of the network as a command.

// tryNetwork completes cfg and runs the check, one at a time.
func (l layout) tryNetwork(ctx context.Context, n *cni.Network, cfg netcheck.Config) (netcheck.Report, error) {
	lock, err := lockCheck(ctx, n.Dir())
	if err != nil {
		return netcheck.Report{}, fmt.Errorf("check the network: %w", err)
	}
	defer func() { _ = lock.Close() }()

	cfg.ID = l.id
	cfg.Bridge = n.Bridge()
	cfg.Subnet = n.Subnet()
	cfg.Gateway = n.Gateway()
	cfg.Instance = n.Spare()
	cfg.HostName = node.HostName
	cfg.Resolvers = node.Resolvers()

	ports := func() ([]uint16, error) { return balance.Ports(l.table()) }
	return tryPorts(ports, func(ports []uint16) (netcheck.Report, error) {
		cfg.Ports = ports
		cfg.AppPorts = node.Ports(l.path("node"))
		return netcheck.Run(ctx, cfg)
	})
}

// tryPorts runs a check of the public ports that there are. What fails while they come or
// go, as right after a crash of everything, is no firewall's fault: it is tried once more.
func tryPorts(ports func() ([]uint16, error), try func([]uint16) (netcheck.Report, error)) (netcheck.Report, error) {
	before, err := ports()
	if err != nil {
		return netcheck.Report{}, err
	}
	r, err := try(before)
	if err != nil || len(r.Failed()) == 0 {
		return r, err
	}

	now, err := ports()
	if err != nil {
		return netcheck.Report{}, err
	}
	if slices.Equal(now, before) {
		return r, nil
	}
	return try(now)
}

// Check tries the network of an installation, whether it runs or not. What it needs
// for that and isn't there it makes, and takes it away again.
func Check(ctx context.Context, o Options, log *slog.Logger) (r netcheck.Report, err error) {
	l, err := newLayout(o.State)
	if err != nil {
		return r, err
	}
	if err := l.check(); err != nil {
		return r, err
	}

	// Also where cupeld runs, whose own addresses are tried then.
	at, err := netip.ParseAddrPort(o.CASInstances)
	if err != nil {
		return r, problem.New(problem.Invalid, ruleListen, "--cas-instances %.60q is no address of this machine", o.CASInstances).Fix("give ADDRESS:PORT, as in 0.0.0.0:18765")
	}
	if o.Subnet != "" {
		if _, err := cni.ParseSubnet(o.Subnet); err != nil {
			return r, err
		}
	}

	ports := loadPorts(l.path(portsFile))
	cfg := netcheck.Config{FirstPort: o.FirstPort}
	if cfg.FirstPort == 0 {
		cfg.FirstPort = ports.first()
	}

	if away := l.displaced(); away != nil { // its apps run on the network that there is
		return r, away.problem()
	}

	p := &parts{layout: l, log: log}
	if exists(l.dir) {
		lock, err := l.lock(workCheck)
		held, locked := errors.AsType[*lockedError](err)
		if locked && held.what == workUp && l.serves(held) {
			return p.checkRunning(ctx, o, cfg)
		}
		if err != nil {
			return r, err
		}
		defer lock.release()
	}

	dir, err := os.MkdirTemp("", "cupel-check-")
	if err != nil {
		return r, fmt.Errorf("check the network: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	kept, err := atomicfile.Read(l.path("cni", "subnet"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "subnet"), kept, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("check the network: %w", err)
	}

	_, err = netlink.LinkByName(l.bridge())
	made := err != nil
	if p.network, err = l.openNetwork(dir, o); err != nil {
		return r, err
	}
	if made { // else apps run on it
		defer func() { err = errors.Join(err, p.network.Close()) }()
	}

	if cfg.CASPort = at.Port(); cfg.CASPort == 0 {
		cfg.CASPort = portNumber(ports.again(instancesListener, ""))
	}
	if cfg.To, err = targets(ctx, o.CheckTo, p.network.Gateway()); err != nil {
		return r, err
	}

	return l.tryNetwork(ctx, p.network, cfg)
}

// checkRunning tries the network of the cupeld that serves.
func (p *parts) checkRunning(ctx context.Context, o Options, cfg netcheck.Config) (r netcheck.Report, err error) {
	e, err := client.ReadEndpoint(p.dir)
	if err != nil {
		return r, err
	}
	if p.network, err = cni.Look(p.networkConfig(p.path("cni"))); err != nil {
		return r, err
	}
	if cfg.To, err = targets(ctx, o.CheckTo, p.network.Gateway()); err != nil {
		return r, err
	}

	cfg.CASPort = portNumber(e.CAS.Instances)
	cfg.CASRuns = true
	return p.tryNetwork(ctx, p.network, cfg)
}

// targets are what a person asks for, as HOST:PORT in an instance's words.
func targets(ctx context.Context, asked []string, gateway netip.Addr) ([]netcheck.Target, error) {
	var out []netcheck.Target
	for _, text := range asked {
		t, err := target(ctx, text, gateway)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// target is one of them, with the address that this machine finds for it.
func target(ctx context.Context, text string, gateway netip.Addr) (netcheck.Target, error) {
	refuse := func(p *problem.Error) (netcheck.Target, error) { return netcheck.Target{}, p }

	host, port, err := net.SplitHostPort(text)
	number, errPort := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || errPort != nil || number == 0 {
		return refuse(problem.New(problem.Invalid, ruleTo, "--to %q", text).Want("HOST:PORT").
			Fix("as in --to git.example.com:443, or --to %s:3000 for this machine", node.HostName))
	}

	addr := gateway
	if host != node.HostName {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
		if err != nil || len(ips) == 0 {
			return refuse(problem.New(problem.NotFound, ruleTo, "--to %s: this machine finds no IPv4 address of %s, and instances have IPv4 alone", text, host).
				Fix("check its spelling and this machine's name servers, or give an IPv4 address"))
		}
		addr = ips[0].Unmap()
	}

	if addr.IsLoopback() || addr.IsUnspecified() {
		return refuse(problem.New(problem.Invalid, ruleTo, "--to %s: in an instance that is the instance itself", text).
			Want("an address that instances may call").Fix("--to %s:%s for this machine", node.HostName, port))
	}
	return netcheck.Target{Text: text, Addr: netip.AddrPortFrom(addr, uint16(number))}, nil
}

// lastInstances is the address of the CAS's API for instances, by the port of the last start.
func (o Options) lastInstances() (string, error) {
	l, err := newLayout(o.State)
	if err != nil {
		return "", err
	}

	ports := loadPorts(l.path(portsFile))
	if ports.last[instancesListener] == "" {
		return o.CASInstances, nil
	}
	return ports.again(instancesListener, "0.0.0.0"), nil
}

// portNumber is the port of an address that a listener told.
func portNumber(addr string) uint16 {
	n, _ := strconv.ParseUint(portOf(addr), 10, 16) // a listener's own words
	return uint16(n)
}

func (c *cli) checkCommand() *cobra.Command {
	var first uint16 // not up's, whose default is another one
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Try whether this machine lets through what instances and their users need",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			c.opts.FirstPort = first
			if !cmd.Flags().Changed("cas-instances") {
				at, err := c.opts.lastInstances()
				if err != nil {
					return err
				}
				c.opts.CASInstances = at
			}

			r, err := Check(ctx, c.opts, c.logger())
			if err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return err
			}

			if c.output == "json" {
				e := json.NewEncoder(wording.JSONWriter(c.out))
				e.SetIndent("", "  ")
				err = e.Encode(r)
			} else {
				_, err = io.WriteString(c.out, c.inState(string(appendReport(nil, r))))
			}
			if err != nil {
				return err
			}
			return r.Problem()
		},
	}

	f := cmd.Flags()
	f.StringVar(&c.opts.CASInstances, "cas-instances", "0.0.0.0:18765", "address of the CAS's instances' API, where cupeld doesn't run")
	f.StringVar(&c.opts.Subnet, "subnet", "", "network of the instances, where cupeld doesn't run")
	f.Uint16Var(&first, "first-port", 0, "public port that is tried, or the next free one, where no app has one (default: that of the last cupel up, or 8082)")
	f.StringArrayVar(&c.opts.CheckTo, "to", nil, "HOST:PORT that an instance shall reach too; may be given again")
	return cmd
}

// appendReport writes a report for people.
func appendReport(b []byte, r netcheck.Report) []byte {
	printed := map[string]bool{} // mends
	for _, p := range r.Probes {
		word := "ok"
		switch {
		case p.Unknown:
			word = "?"
		case !p.OK:
			word = "FAILS"
		case strings.HasPrefix(p.Note, "not tried"):
			word = "-"
		}

		b = fmt.Appendf(b, "%-6s %s\n", word, p.What)
		if p.Note != "" {
			b = fmt.Appendf(b, "       %s\n", p.Note)
		}

		mend := slices.DeleteFunc(slices.Clone(p.Mend), func(m string) bool { return printed[m] })
		b = appendCause(b, "       ", p.Cause, mend)
		if len(p.Mend) > 0 && len(mend) == 0 {
			b = append(b, "         mend: as above\n"...)
		}
		for _, m := range mend {
			printed[m] = true
		}
	}
	return b
}

// appendCause writes why something fails, and what mends it.
func appendCause(b []byte, indent, text string, mend []string) []byte {
	if text != "" {
		b = fmt.Appendf(b, "%s%s\n", indent, text)
	}
	for _, m := range mend {
		b = fmt.Appendf(b, "%s  mend: %s\n", indent, m)
	}
	return b
}

// appendBlocked writes what stands in the way, for who starts the installation.
func appendBlocked(b []byte, failed []netcheck.Probe) []byte {
	if len(failed) == 0 {
		return b
	}

	b = append(b, "\n  WARNING: this machine's firewall or settings stand in the way. This fails:\n"...)
	for _, blocked := range netcheck.ByCause(failed) {
		for _, p := range blocked.Probes {
			b = fmt.Appendf(b, "    %s\n", p.What)
		}
		b = appendCause(b, "      ", blocked.Cause, blocked.Mend)
	}
	return append(b, "  Then try again: cupel check\n"...)
}

// appendUnchecked writes that it isn't known what stands in the way.
func appendUnchecked(b []byte, why *problem.Error) []byte {
	if why == nil {
		return b
	}

	b = fmt.Appendf(b, "\n  WARNING: it is not known whether this machine's firewall or settings stand in the way: %s\n", why.Actual)
	if why.Mend == "" {
		return append(b, "  Try again: cupel check\n"...)
	}
	return fmt.Appendf(b, "  Try again: %s\n", why.Mend)
}
