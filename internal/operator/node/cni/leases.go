package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/filelock"
)

func (n *Network) leaseDir() string { return filepath.Join(n.cfg.Dir, "leases", "cupel-"+n.cfg.ID) }

// leases returns who holds which address. The plugin keeps a file for each, named
// after the address and with the holder's id in its first line.
func (n *Network) leases() (map[netip.Addr]ident.AttemptID, error) {
	entries, err := os.ReadDir(n.leaseDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read leases: %w", err)
	}

	held := map[netip.Addr]ident.AttemptID{}
	for _, e := range entries {
		addr, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}

		b, err := atomicfile.Read(filepath.Join(n.leaseDir(), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // given back meanwhile
		}
		if err != nil && e.Type().IsRegular() {
			return nil, fmt.Errorf("read leases: %w", err)
		}

		id, _, _ := strings.Cut(string(b), "\n")
		held[addr] = ident.AttemptID(strings.TrimSpace(id))
	}
	return held, nil
}

// Held implements node.Network.
func (n *Network) Held() ([]ident.AttemptID, error) {
	held, err := n.leases()
	if err != nil {
		return nil, err
	}

	var ids []ident.AttemptID
	for _, id := range held {
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// dropNameless gives back addresses whose file lost its content in a power cut, or is no
// file: they are nobody's, and nobody could give them back. The plugins' lock keeps those out
// that are being written.
func (n *Network) dropNameless() error {
	lock, err := os.OpenFile(filepath.Join(n.leaseDir(), "lock"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock leases: %w", err)
	}
	defer lock.Close()

	if err := filelock.Try(lock); err != nil {
		return nil // a plugin is at it; the next start looks again
	}

	held, err := n.leases()
	if err != nil {
		return err
	}

	for addr, id := range held {
		if id != "" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(n.leaseDir(), addr.String())); err != nil {
			return fmt.Errorf("give back a nameless address: %w", err)
		}
	}
	return nil
}

// notInstances is at most how many addresses of a subnet are no instance's: its own,
// the gateway's, the broadcast address, one to spare.
const notInstances = 4

// addressesUsed explains a failed connection where it is that every address is taken.
func (n *Network) addressesUsed() error {
	held, err := n.leases()
	if err != nil {
		return nil
	}
	if len(held) < 1<<(32-n.subnet.Bits())-notInstances {
		return nil
	}

	return problem.New(problem.Unavailable, ruleAddressesUsed, "all %d addresses of %s are taken: each instance that runs has one", len(held), n.subnet).
		Want("at most %d instances on this machine", len(held)).
		Fix("run fewer instances (cupel deploy --instances, cupel rm), or run some on another machine")
}
