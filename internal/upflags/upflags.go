// Package upflags declares the flags of `cupel up` and `cupel install-service`, once
// for both programs that take them: cupel, which shows them and passes on those that
// were given, and cupeld, which starts by them.
//
// It owns names, defaults and help texts, and knows nothing of what a value means:
// cupeld refuses the wrong ones. It trusts nobody and keeps no state, so that it has
// no rule of concurrency. Read [Installation] first.
package upflags

import (
	"time"

	"github.com/spf13/pflag"
)

// Defaults that something else than the flags refers to.
const (
	// FirstPort is where the search for an app's free port begins at the first start.
	FirstPort = 8082

	// MinFree is what has to be free on the disk before anything new is taken: more than
	// starting an app on a runtime that is here writes.
	MinFree = "64M"
)

// Installation is what the flags say of how an installation runs. A unit of systemd
// has them too, and those that were given are compared with the next start's.
type Installation struct {
	ManagerListen   string        // address of the manager's API
	CASOwners       string        // address of the CAS's owners' API
	CASInstances    string        // address of the CAS's instances' API
	RegistryListen  string        // address of the embedded registry
	FirstPort       uint16        // where the search for an app's free port begins
	Subnet          string        // of the instances, as cni.ParseSubnet takes it; empty: a free one
	AllowUnattested bool          // let sessions say mode: none
	CASQuota        string        // as the CAS's flag --quota takes it
	CASConnections  int           // open at each API of the CAS; 0: the CAS decides
	AppQuota        string        // as manager.KeyLimits takes it
	Balancer        string        // other limits, as balance.Config.SetLimits takes them
	Grace           time.Duration // from SIGTERM to SIGKILL
	LowPorts        string        // as manager.ParsePorts takes it
	DeployKeys      string        // file with the keys that may deploy; empty or "all": all may
	Drain           time.Duration // of connections to instances that are replaced
	MinFree         string        // of the state folder's disk, before anything new is taken; as manager.ParseMemory takes it
	ManagerCert     string        // file with a certificate for the manager's public name; empty: none
	ManagerKey      string        // file with its key
	Starts          int           // instances that start at once; 0: by the cores
	Overcommit      string        // where all apps may use more memory than there is: warn (also if empty) or refuse
	KeepAlive       time.Duration // how often instances report to the CAS; 0: the CAS's own default
}

// Declare adds the flags to f, and sets i to their defaults.
func (i *Installation) Declare(f *pflag.FlagSet) {
	f.StringVar(&i.ManagerListen, "manager-listen", "0.0.0.0:5000", "address of the manager's API (default: that of the last start, at first 0.0.0.0:5000)")
	f.StringVar(&i.CASOwners, "cas-owners", "0.0.0.0:8081", "address of the CAS's owners' API (default: that of the last start, at first 0.0.0.0:8081)")
	f.StringVar(&i.CASInstances, "cas-instances", "0.0.0.0:18765", "address of the CAS's instances' API (default: that of the last start, at first 0.0.0.0:18765)")
	f.StringVar(&i.RegistryListen, "registry-listen", "127.0.0.1:5050", "address of the embedded registry (default: that of the last start, at first 127.0.0.1:5050)")
	f.Uint16Var(&i.FirstPort, "first-port", FirstPort, "where the search for an app's free port begins (default: as at the last start, at first 8082)")

	// Help doesn't show these defaults a second time: they hold at the first start alone.
	for _, name := range []string{"manager-listen", "cas-owners", "cas-instances", "registry-listen"} {
		f.Lookup(name).DefValue = ""
	}
	f.Lookup("first-port").DefValue = "0"

	f.StringVar(&i.Subnet, "subnet", "", "network of the instances, an IPv4 CIDR as in 10.88.7.0/24 (default: a free /24 of 10.88.0.0/16 or another private network)")
	f.BoolVar(&i.AllowUnattested, "allow-unattested", false, "let sessions say mode: none: their secrets go to whoever asks")
	f.StringVar(&i.CASQuota, "cas-quota", "", "other limits of what the CAS keeps for each key, source address and in total, as in key-bytes=256M,total-sessions=1000")
	f.IntVar(&i.CASConnections, "cas-connections", 0, "how many connections each API of the CAS has open at once (default: by the memory that there is)")
	f.DurationVar(&i.KeepAlive, "keep-alive", 10*time.Second, "how often instances report to the CAS")

	f.StringVar(&i.AppQuota, "app-quota", "", "other limits of what each key may deploy, as in apps=20,memory=64G (also instances, ports, followers)")
	f.StringVar(&i.Balancer, "balancer", "", "other limits of the balancer, as in connections=8192,client-idle=1h (connections through cupeld at once: 2048; also clients, connection-idle)")
	f.DurationVar(&i.Grace, "grace", 10*time.Second, "how long an app may take to end, from SIGTERM to SIGKILL")
	f.StringVar(&i.LowPorts, "low-ports", "", "ports below 1024 that apps may have, as in 80,443")
	f.StringVar(&i.DeployKeys, "deploy-keys", "", "file with the keys that may deploy, one a line, or 'all' (default: all may)")
	f.DurationVar(&i.Drain, "drain", 30*time.Second, "how long connections may last to an instance that is replaced or removed, before it is stopped")
	f.StringVar(&i.MinFree, "min-free", MinFree, "what has to be free on the state folder's disk before anything new is deployed")
	f.StringVar(&i.ManagerCert, "manager-cert", "", "file with a public authority's certificate for the manager's name, and its chain, in PEM")
	f.StringVar(&i.ManagerKey, "manager-key", "", "file with the key of --manager-cert")
	f.IntVar(&i.Starts, "starts", 0, "how many instances start at once (default: 4 for each core)")
	f.StringVar(&i.Overcommit, "overcommit", "warn", "where the memory limits of all apps are more than the machine has: warn or refuse")
}

// Start is what the flags say of one start alone.
type Start struct {
	Detach    bool          // return when everything serves
	WaitClock time.Duration // how long to wait for a clock that isn't set yet
}

// Declare adds the flags to f, and sets s to their defaults.
func (s *Start) Declare(f *pflag.FlagSet) {
	f.BoolVar(&s.Detach, "detach", false, "return when everything serves, and leave it running")
	f.DurationVar(&s.WaitClock, "wait-clock", 0, "how long to wait for a clock that isn't set yet, as at boot")
}
