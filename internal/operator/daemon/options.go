package daemon

import (
	"cmp"
	"net"
	"net/netip"
	"os"
	"time"

	"cupel.dev/cupel/internal/operator/balance"
	"cupel.dev/cupel/internal/operator/node/cni"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/problem"
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
	if err := checkProgram("launcher_missing", "--launcher", o.Launcher); err != nil {
		return err
	}
	if err := checkProgram("cas_missing", "--cas", o.CAS); err != nil {
		return err
	}
	return new(balance.Config).SetLimits(o.Balancer)
}

// checkProgram refuses a program that isn't where it was named.
func checkProgram(rule, flag, file string) error {
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
		host, port, err := net.SplitHostPort(l.addr(o))
		number := 0
		if err == nil {
			number, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return refuseAddress(l, err)
		}
		for _, other := range others {
			if number != 0 && number == other.port && (host == other.host || openToAll(host) || openToAll(other.host)) {
				return refuseTaken(map[string]string{l.name: l.addr(o)})
			}
		}
		others = append(others, address{host, number})
	}
	if o.FirstPort < firstPort {
		return problem.New(problem.Invalid, "first_port", "the search for an app's free port begins at %d", o.FirstPort).
			Want("%d or more", firstPort).
			Fix("give another --first-port; --low-ports lets apps have ports below by name")
	}
	return nil
}

func openToAll(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// checkCASOptions refuses what the CAS would refuse when it starts.
func checkCASOptions(o Options) error {
	if every := cmp.Or(o.KeepAlive, time.Second); every < time.Second {
		return problem.New(problem.Invalid, "keep_alive", "instances report every %s", o.KeepAlive).
			Want("1s or more").
			Fix("give another --keep-alive, as in --keep-alive 10s, or leave it out")
	}
	if o.CASConnections < 0 {
		return problem.New(problem.Invalid, "cas_connections", "each API of the CAS has %d connections open at once", o.CASConnections).
			Want("1 or more, or 0 for what the memory allows").
			Fix("give another --cas-connections, or leave it out")
	}
	if o.CASQuota == "" {
		return nil
	}
	return new(cas.Quotas).Set(o.CASQuota)
}
