package daemon

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/balance"
	"cupel.dev/cupel/internal/operator/node/cni"
	"cupel.dev/cupel/internal/trusted/cas/quota"
	"cupel.dev/cupel/internal/upflags"
)

// checkOptions refuses what no part could take, before anything is touched: for a
// start, and for who writes the flags of later starts down.
func checkOptions(o Options) error {
	if err := checkAddresses(o); err != nil {
		return err
	}
	if _, err := managerLimits(o); err != nil {
		return err
	}
	if _, err := keyLimits(o); err != nil {
		return err
	}
	if _, err := machineMemory(o); err != nil {
		return err
	}
	if _, err := (layout{}).roomOf(o.MinFree); err != nil {
		return err
	}
	if _, err := openPublicCert(o.ManagerCert, o.ManagerKey, nil); err != nil {
		return err
	}

	if err := checkCASOptions(o); err != nil {
		return err
	}

	if o.Subnet != "" {
		if _, err := cni.ParseSubnet(o.Subnet); err != nil {
			return err
		}
	}

	if err := checkProgram(problem.RuleLauncherMissing, "--launcher", o.Launcher); err != nil {
		return err
	}
	if err := checkProgram(ruleCASMissing, "--cas", o.CAS); err != nil {
		return err
	}

	return new(balance.Config).SetLimits(o.Balancer)
}

// checkProgram refuses a program that isn't where it was named.
func checkProgram(rule problem.Rule, flag, file string) error {
	if file == "" {
		return nil
	}
	if _, err := os.Stat(file); err != nil {
		return problem.New(problem.NotFound, rule, "%s: %w", flag, err).Fix("name a file that is there, or leave %s out", flag)
	}
	return nil
}

// firstPort is the lowest public port that every app may have.
const firstPort = 1024

// checkAddresses refuses what is no address and port, and two listeners at one.
func checkAddresses(o Options) error {
	type address struct {
		host string
		port int
	}
	var others []address

	for _, l := range listeners {
		addr := *l.addr(&o)
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return refuseAddress(l, fmt.Errorf("%.60q is no HOST:PORT", addr))
		}
		number, err := net.LookupPort("tcp", port)
		if err != nil {
			return refuseAddress(l, fmt.Errorf("%.60q has a port that can't be", addr))
		}

		for _, other := range others {
			if number != 0 && number == other.port && (host == other.host || openToAll(host) || openToAll(other.host)) {
				return refuseTaken(map[string]string{l.name: addr})
			}
		}
		others = append(others, address{host, number})
	}

	if o.FirstPort < firstPort {
		return problem.New(problem.Invalid, ruleFirstPort, "the search for an app's free port begins at %d", o.FirstPort).
			Want("%d or more", firstPort).
			Fix("give another --first-port; --low-ports lets apps have ports below by name")
	}
	return nil
}

// openToAll reports whether a listener at that host takes connections to every address.
func openToAll(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// checkCASOptions refuses what the CAS would refuse when it starts.
func checkCASOptions(o Options) error {
	if every := cmp.Or(o.KeepAlive, time.Second); every < time.Second {
		return problem.New(problem.Invalid, ruleKeepAlive, "instances report every %s", problem.Duration(o.KeepAlive)).
			Want("1s or more").
			Fix("give another --keep-alive, as in --keep-alive 10s, or leave it out")
	}

	if o.CASConnections < 0 {
		return problem.New(problem.Invalid, ruleCASConnections, "each API of the CAS has %d connections open at once", o.CASConnections).
			Want("1 or more, or 0 for what the memory allows").
			Fix("give another --cas-connections, or leave it out")
	}

	if o.CASQuota == "" {
		return nil
	}
	return new(quota.Limits).Set(o.CASQuota)
}

// Options are the flags of `cupeld up`, and what its other commands have in common
// with it.
type Options struct {
	upflags.Installation

	State     string
	Launcher  string        // default: cupel-init beside this program
	CAS       string        // default: cupel-cas beside this program
	WaitClock time.Duration // how long to wait for a clock that isn't set yet
	Existing  bool          // refuse a state folder without an installation
	OwnGroup  bool          // move this process to the daemons' control group
	Force     bool          // of Down: also where apps can't store what they wrote
	CheckTo   []string      // of Check: HOST:PORT that an instance shall reach too

	Given   map[string]string // flags of the command line that are kept for the next start
	settled []string          // listeners that are where the last start listened, and weren't told to

	lock         *stateLock    // held already by who started this process; nil: it isn't
	log          *rotatingFile // where this process logs; nil: elsewhere
	repaired     []string      // what who started this process put aside
	checkTimeout time.Duration // of the network at the start, and every now and then; 0: the default

	forcedReport time.Duration // of cupel down --force; 0: the default
	quietLimit   time.Duration // of a cupeld that is waited for; 0: the default

	tell func(string) // hears how long work goes on; nil: nobody does
}
