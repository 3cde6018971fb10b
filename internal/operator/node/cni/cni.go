package cni

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containernetworking/cni/libcni"
	types "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/node/sysctl"
)

const (
	version = "1.0.0"
	ifName  = "eth0"
	// PluginDir is where Debian puts the plugins.
	PluginDir = "/usr/lib/cni"
)

// Config says what a network is called and where its state lies.
type Config struct {
	Dir       string // absolute; leases, cache and the subnet are kept below
	ID        string // 8 hex digits, unique on the machine
	PluginDir string
	Sysctl    sysctl.Keeper
	// Subnet is where instances shall have their addresses; zero: what was kept, or
	// a free one.
	Subnet netip.Prefix
}

// Network implements node.Network.
type Network struct {
	cfg    Config
	subnet netip.Prefix
	list   *libcni.NetworkConfigList
	cni    *libcni.CNIConfig

	forwarded map[sysctl.Setting]string // as they were before the first change

	mu      sync.Mutex
	leaving map[ident.AttemptID]bool // instances whose links are being taken away
}

var _ node.Network = (*Network)(nil)

// Open chooses or remembers the subnet and lets the machine forward. The bridge
// is made with the first instance.
func Open(cfg Config) (*Network, error) {
	for _, plugin := range []string{"bridge", "host-local"} {
		if _, err := os.Stat(filepath.Join(cfg.PluginDir, plugin)); err != nil {
			return nil, problem.New(problem.Unavailable, ruleCNIMissing, "CNI plugin %s: %w", plugin, err).
				Fix("install it: apt-get install --no-remove containernetworking-plugins")
		}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make network folder: %w", err)
	}

	n := &Network{
		cfg: cfg,
		cni: libcni.NewCNIConfigWithCacheDir([]string{cfg.PluginDir}, filepath.Join(cfg.Dir, "cache"), &endingExec{}),
	}
	var err error
	if n.subnet, err = n.keepSubnet(); err != nil {
		return nil, err
	}
	if n.list, err = libcni.ConfListFromBytes(n.conflist()); err != nil {
		return nil, fmt.Errorf("configure CNI: %w", err)
	}

	// The bridge plugin turns forwarding on; switching it resets the others.
	n.forwarded, err = cfg.Sysctl.Hold(n.holder(), map[sysctl.Setting]string{"net/ipv4/ip_forward": "1"},
		"net/ipv4/conf/all/accept_redirects", "net/ipv4/conf/default/accept_redirects")
	if err != nil {
		return nil, err
	}

	if err := n.dropNameless(); err != nil {
		return nil, err
	}
	return n, n.connectBridge()
}

// Look returns the network that another process opened, for who only wants to know
// where it is.
func Look(cfg Config) (*Network, error) {
	n := &Network{cfg: cfg}
	var err error
	if n.subnet, err = n.keptSubnet(); err == nil && !n.subnet.IsValid() {
		err = problem.New(problem.NotFound, ruleSubnet, "no network was chosen yet").Fix("cupel up")
	}
	return n, err
}

// Bridge is the name of the bridge device.
func (n *Network) Bridge() string { return "cpl" + n.cfg.ID }

// holder is who holds the kernel's settings that this network needs.
func (n *Network) holder() sysctl.Holder { return sysctl.Holder(n.cfg.ID) }

// Dir is the folder of its state.
func (n *Network) Dir() string { return n.cfg.Dir }

// Subnet is where instances have their addresses.
func (n *Network) Subnet() netip.Prefix { return n.subnet }

// Gateway implements node.Network: the subnet's first address.
func (n *Network) Gateway() netip.Addr { return n.subnet.Addr().Next() }

// Spare is an address of the subnet that no instance gets: the last one.
func (n *Network) Spare() netip.Addr {
	a := n.subnet.Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])|^uint32(0)>>n.subnet.Bits()-1)
	return netip.AddrFrom4(a)
}

// conflist is the configuration that CNI works by (CNI specification 1.0.0, section 1).
func (n *Network) conflist() []byte {
	b, _ := json.Marshal(map[string]any{ // plain values always encode
		"cniVersion": version,
		"name":       "cupel-" + n.cfg.ID,
		"plugins": []any{map[string]any{
			"type":        "bridge",
			"bridge":      n.Bridge(),
			"isGateway":   true,
			"ipMasq":      false,
			"hairpinMode": true,
			"ipam": map[string]any{
				"type":    "host-local",
				"dataDir": filepath.Join(n.cfg.Dir, "leases"),
				"ranges": []any{[]any{map[string]any{
					"subnet":   n.subnet.String(),
					"gateway":  n.Gateway().String(),
					"rangeEnd": n.Spare().Prev().String(),
				}}},
				"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		}},
	})
	return b
}

// connectBridge makes the bridge with the gateway's address before any
// instance: the CAS and the balancer listen there.
func (n *Network) connectBridge() error {
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name = n.Bridge()
	br.HardwareAddr = n.hardwareAddr()
	if err := netlink.LinkAdd(br); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make bridge %s: %w", n.Bridge(), err)
	}

	link, err := netlink.LinkByName(n.Bridge())
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", n.Bridge(), err)
	}

	if err := fixHardwareAddr(link); err != nil {
		return err
	}

	addr := &netlink.Addr{IPNet: &net.IPNet{IP: n.Gateway().AsSlice(), Mask: net.CIDRMask(n.subnet.Bits(), 32)}}
	have, err := netlink.AddrList(link, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses of bridge %s: %w", n.Bridge(), err)
	}
	for _, a := range have {
		if a.IPNet.String() != addr.IPNet.String() { // of a subnet before
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("take an earlier address off bridge %s: %w", n.Bridge(), err)
			}
		}
	}

	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("give bridge %s its address: %w", n.Bridge(), err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring bridge %s up: %w", n.Bridge(), err)
	}
	return nil
}

// Restore looks whether bridge, address, forwarding and the instances' links are as
// they have to be, and mends what another program changed. It returns what was found,
// for people; empty: all was right.
func (n *Network) Restore() (string, error) {
	var found []string

	// The bridge and its address.
	link, err := netlink.LinkByName(n.Bridge())
	gone := err != nil
	switch {
	case gone:
		found = append(found, "another program deleted the bridge "+n.Bridge()+": it was made anew")
	case link.Attrs().Flags&net.FlagUp == 0:
		found = append(found, "another program took the bridge "+n.Bridge()+" down: it is up again")
	case !n.hasGateway(link):
		found = append(found, fmt.Sprintf("another program took the address %s off the bridge %s: it has it again", n.Gateway(), n.Bridge()))
	}

	if len(found) > 0 {
		if err := n.connectBridge(); err != nil {
			return "", err
		}
	}

	// The instances' links on it.
	again, anew, err := n.reconnect()
	if again > 0 {
		found = append(found, problem.Count(again, "instance")+" taken off the bridge "+n.Bridge()+", and connected again")
	}
	if anew > 0 {
		found = append(found, "another program deleted the link of "+problem.Count(anew, "instance")+": it was made anew")
	}
	errs := []error{err}

	// What the kernel forwards.
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/" + n.Bridge() + "/forwarding"} {
		path := filepath.Join(n.cfg.Sysctl.Proc, name)
		if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != "0" {
			continue
		}
		if err := os.WriteFile(path, []byte("1\n"), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("switch forwarding on again: %w", err))
			continue
		}
		found = append(found, "another program set "+strings.ReplaceAll(name, "/", ".")+" to 0: it is 1 again, without which no instance reaches anything")
	}

	lost, err := n.cfg.Sysctl.Remember(n.holder(), n.forwarded)
	if lost {
		found = append(found, "another program removed "+n.cfg.Sysctl.Dir+", which says what cupel down puts back: it was made anew")
	}

	return strings.Join(found, "; "), errors.Join(append(errs, err)...)
}

func (n *Network) hasGateway(bridge netlink.Link) bool {
	have, err := netlink.AddrList(bridge, unix.AF_INET)
	return err == nil && slices.ContainsFunc(have, func(a netlink.Addr) bool {
		ip, ok := netip.AddrFromSlice(a.IP)
		return ok && ip.Unmap() == n.Gateway()
	})
}

func (n *Network) conf(id ident.AttemptID, path string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: string(id), NetNS: path, IfName: ifName}
}

// Add implements node.Network.
func (n *Network) Add(ctx context.Context, id ident.AttemptID, path string) (netip.Addr, error) {
	if err := makeNamespace(path); err != nil {
		return netip.Addr{}, err
	}

	result, err := n.cni.AddNetworkList(ctx, n.list, n.conf(id, path))
	if err != nil && ctx.Err() != nil {
		return netip.Addr{}, fmt.Errorf("connect instance %s: %w", id, ctx.Err())
	}
	if err != nil {
		if full := n.addressesUsed(); full != nil {
			return netip.Addr{}, full
		}
		return netip.Addr{}, problem.New(problem.Unavailable, ruleNetwork, "connect instance %s: %w", id, err).
			Fix("look at the machine's network: ip link, ip route")
	}

	r, err := types.GetResult(result)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("connect instance %s: %w", id, err)
	}
	for _, ip := range r.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP.To4()); ok {
			return addr, n.forgetNeighbour(addr)
		}
	}
	return netip.Addr{}, fmt.Errorf("connect instance %s: CNI gave no IPv4 address", id)
}

// Remove implements node.Network.
func (n *Network) Remove(ctx context.Context, id ident.AttemptID, path string) error {
	n.setLeaving(id, true)
	defer n.setLeaving(id, false)

	ns := path
	if !isNamespace(path) {
		ns = "" // CNI then frees the lease alone
	}
	if err := n.cni.DelNetworkList(ctx, n.list, n.conf(id, ns)); err != nil {
		return fmt.Errorf("disconnect instance %s: %w", id, err)
	}

	for isNamespace(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("free namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("free namespace: %w", err)
	}
	return nil
}

// Close removes the bridge and puts the kernel's settings back; the subnet
// stays chosen. No instance may be connected any more.
func (n *Network) Close() error {
	var errs []error
	if link, err := netlink.LinkByName(n.Bridge()); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			errs = append(errs, fmt.Errorf("remove bridge %s: %w", n.Bridge(), err))
		}
	}

	for _, dir := range []string{"cache", "leases"} {
		errs = append(errs, os.RemoveAll(filepath.Join(n.cfg.Dir, dir)))
	}
	return errors.Join(append(errs, n.cfg.Sysctl.Release(n.holder()))...)
}

// makeNamespace makes a network namespace with its loopback up and keeps it
// mounted at path. A half-made one is made again.
func makeNamespace(path string) error {
	if isNamespace(path) {
		return nil
	}

	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o400)
	if err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	f.Close()

	done := make(chan error, 1)
	go func() {
		// The thread changes its namespace and never goes back: it is not
		// unlocked, so it ends with this goroutine.
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}

			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return err
			}

			return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
		}()
	}()

	if err := <-done; err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	return nil
}

// isNamespace reports whether path is a mounted namespace.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}
