package cni

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hardwareAddr is the bridge's own address: locally administered, and the same for
// as long as there is the installation.
func (n *Network) hardwareAddr() net.HardwareAddr {
	id, _ := hex.DecodeString(n.cfg.ID) // 8 digits
	return append(net.HardwareAddr{0x02, 'c'}, append(id, 0, 0, 0, 0)[:4]...)
}

// fixHardwareAddr makes the address that the bridge has its own. Without one of its
// own it takes the lowest of its ports', which come and go with the instances: those
// that stay have the old one among their neighbours then, and reach neither the CAS
// nor anybody else until they ask again. The address of a bridge that is there stays,
// as instances know it.
func fixHardwareAddr(bridge netlink.Link) error {
	if err := netlink.LinkSetHardwareAddr(bridge, bridge.Attrs().HardwareAddr); err != nil {
		return fmt.Errorf("fix the hardware address of bridge %s: %w", bridge.Attrs().Name, err)
	}
	return nil
}

// forgetNeighbour drops what the machine knows of the address from the instance that
// had it before, whose hardware address was another.
func (n *Network) forgetNeighbour(addr netip.Addr) error {
	link, err := netlink.LinkByName(n.Bridge())
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", n.Bridge(), err)
	}

	err = netlink.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_INET, IP: addr.AsSlice()})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget the neighbour %s: %w", addr, err)
	}
	return nil
}
