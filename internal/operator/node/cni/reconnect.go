package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// connection is how CNI connected an instance, as its cache tells.
type connection struct {
	ContainerID ident.AttemptID `json:"containerId"`
	Result      struct {
		Interfaces []struct{ Name, Mac, Sandbox string }
		IPs        []struct{ Address, Gateway string }
	}
}

// connections are those of all instances.
func (n *Network) connections() []connection {
	var out []connection
	files, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "cache", "results", "*")) // the pattern is valid
	for _, path := range files {
		b, err := atomicfile.Read(path)
		if err != nil {
			continue // removed meanwhile
		}

		var c connection
		if json.Unmarshal(b, &c) == nil {
			out = append(out, c)
		}
	}
	return out
}

// reconnect puts the instances' links back on the bridge, and makes those anew that are
// gone. It returns how many of either there were.
func (n *Network) reconnect() (again, anew int, err error) {
	bridge, err := netlink.LinkByName(n.Bridge())
	if err != nil {
		return 0, 0, fmt.Errorf("find bridge %s: %w", n.Bridge(), err)
	}

	var errs []error
	for _, c := range n.connections() {
		for _, i := range c.Result.Interfaces {
			if i.Sandbox != "" || i.Name == n.Bridge() {
				continue
			}

			link, err := netlink.LinkByName(i.Name)
			if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
				made, err := n.connectAnew(c, i.Name, bridge)
				errs = append(errs, err)
				if made {
					anew++
				}
				continue
			}

			if err != nil || link.Attrs().MasterIndex != 0 || link.Type() != "veth" {
				continue
			}
			if err := onBridge(link, bridge); err != nil {
				errs = append(errs, err)
				continue
			}
			again++
		}
	}
	return again, anew, errors.Join(errs...)
}

// onBridge puts this machine's end of an instance's link on the bridge.
func onBridge(link, bridge netlink.Link) error {
	err := errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetHairpin(link, true), netlink.LinkSetUp(link))
	if err != nil {
		return fmt.Errorf("connect %s again: %w", link.Attrs().Name, err)
	}
	return nil
}

// setLeaving says whether an instance's link is being taken away.
func (n *Network) setLeaving(id ident.AttemptID, leaving bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !leaving:
		delete(n.leaving, id)
	case n.leaving == nil:
		n.leaving = map[ident.AttemptID]bool{id: true}
	default:
		n.leaving[id] = true
	}
}

// connectAnew makes the link of an instance with the address that it had, unless the
// instance is leaving or gone.
func (n *Network) connectAnew(c connection, name string, bridge netlink.Link) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()

	for _, i := range c.Result.Interfaces {
		if i.Sandbox == "" || n.leaving[c.ContainerID] || !isNamespace(i.Sandbox) || len(c.Result.IPs) == 0 {
			continue
		}

		ns, err := os.Open(i.Sandbox)
		if err != nil {
			return false, fmt.Errorf("connect instance %s anew: %w", c.ContainerID, err)
		}
		defer func() { _ = ns.Close() }()

		mac, _ := net.ParseMAC(i.Mac) // without it the kernel chooses
		link := &netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: name},
			PeerName:         i.Name,
			PeerHardwareAddr: mac,
			PeerNamespace:    netlink.NsFd(int(ns.Fd())),
		}
		if err := netlink.LinkAdd(link); err != nil {
			return false, fmt.Errorf("connect instance %s anew: %w", c.ContainerID, err)
		}

		inside := func() error { return giveAddress(i.Name, c.Result.IPs[0].Address, c.Result.IPs[0].Gateway) }
		err = errors.Join(node.Within(i.Sandbox, inside), onBridge(link, bridge))
		if err != nil {
			return false, errors.Join(fmt.Errorf("connect instance %s anew: %w", c.ContainerID, err), netlink.LinkDel(link))
		}
		return true, nil
	}
	return false, nil
}

// giveAddress gives an instance's end of a link its address, and its way out. It is called
// within the instance's namespace.
func giveAddress(name, cidr, gateway string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}

	ip, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}

	return errors.Join(
		netlink.AddrAdd(link, ip),
		netlink.LinkSetUp(link),
		netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)}),
	)
}
