package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/sysctl"
	"cupel.dev/cupel/internal/testing/need"
)

// open makes a network of its own on this machine, and takes it away at the end.
func open(t *testing.T, id, plugins string) *Network {
	t.Helper()
	need.Root(t)
	need.File(t, filepath.Join(PluginDir, "bridge"))
	cfg := Config{Dir: filepath.Join(t.TempDir(), "cni"), ID: id, PluginDir: plugins, Sysctl: sysctl.Default()}
	n, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// TestBridgeKeepsItsAddress: the machine's hardware address on the bridge is the same
// whoever comes and goes, so that nobody's neighbours go stale.
func TestBridgeKeepsItsAddress(t *testing.T) {
	n := open(t, "0c0ffee1", PluginDir)
	address := func() string {
		link, err := netlink.LinkByName(n.Bridge())
		if err != nil {
			t.Fatal(err)
		}
		return link.Attrs().HardwareAddr.String()
	}
	first := address()
	if first != "02:63:0c:0f:fe:e1" {
		t.Errorf("%s is not made of the id", first)
	}
	dir := t.TempDir()
	for i := range 4 {
		id := ident.AttemptID(fmt.Sprintf("i-%d", i))
		if _, err := n.Add(t.Context(), id, filepath.Join(dir, string(id))); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := n.Remove(t.Context(), id, filepath.Join(dir, string(id))); err != nil {
				t.Error(err)
			}
		}()
		if now := address(); now != first {
			t.Errorf("with %d instances it is %s, was %s", i+1, now, first)
		}
	}
	if err := n.Remove(t.Context(), "i-0", filepath.Join(dir, "i-0")); err != nil {
		t.Fatal(err)
	}
	if now := address(); now != first {
		t.Errorf("after one left it is %s, was %s", now, first)
	}
}

// TestOldBridgeKeepsItsAddress: instances of a bridge that an earlier version made
// know it by the address that it has.
func TestOldBridgeKeepsItsAddress(t *testing.T) {
	need.Root(t)
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name = "cpl0c0ffee2"
	if err := netlink.LinkAdd(br); err != nil {
		t.Fatal(err)
	}
	before, err := netlink.LinkByName(br.Name)
	if err != nil {
		t.Fatal(err)
	}
	n := open(t, "0c0ffee2", PluginDir)
	dir := t.TempDir()
	for i := range 4 {
		id := ident.AttemptID(fmt.Sprintf("i-%d", i))
		if _, err := n.Add(t.Context(), id, filepath.Join(dir, string(id))); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Remove(t.Context(), id, filepath.Join(dir, string(id))) }()
		now, err := netlink.LinkByName(br.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := now.Attrs().HardwareAddr.String(), before.Attrs().HardwareAddr.String(); got != want {
			t.Errorf("with %d instances it is %s, was %s", i+1, got, want)
		}
	}
}

// TestHungPluginEnds: a plugin that never ends, or whose child doesn't, is ended with
// it at the deadline.
func TestHungPluginEnds(t *testing.T) {
	plugins := t.TempDir()
	pids := filepath.Join(t.TempDir(), "pids")
	script := "#!/bin/sh\nsleep 1000 &\necho $! $$ > " + pids + "\nwait\n"
	for _, name := range []string{"bridge", "host-local"} {
		if err := os.WriteFile(filepath.Join(plugins, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n := open(t, "0c0ffee3", plugins)
	path := filepath.Join(t.TempDir(), "ns")
	defer func() { _ = os.Remove(path) }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := n.Add(ctx, "i-1", path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for pid := range strings.FieldsSeq(string(b)) {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil || strings.Contains(string(stat), ") Z ") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("process %s of the plugin runs on", pid)
			}
		}
	}
	ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := n.Remove(ctx, "i-1", path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	for isNamespace(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPluginsWords: what a plugin says of its failure is told, in whichever of its two
// ways it says it.
func TestPluginsWords(t *testing.T) {
	dir := t.TempDir()
	for script, want := range map[string]string{
		`echo '{"cniVersion":"1.0.0","code":11,"msg":"no such bridge"}'; exit 1`: "no such bridge",
		`echo 'cannot open it' >&2; exit 3`:                                      "exit status 3\ncannot open it",
	} {
		plugin := filepath.Join(dir, "p")
		if err := os.WriteFile(plugin, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := (&endingExec{}).ExecPlugin(t.Context(), plugin, nil, nil); err == nil || err.Error() != want {
			t.Errorf("%v: want %q", err, want)
		}
	}
}

// TestAddressesUsed: when every address has its instance, the next one is told so.
func TestAddressesUsed(t *testing.T) {
	n := open(t, "0c0ffee4", PluginDir)
	dir := t.TempDir()
	ns := func(id string) string { return filepath.Join(dir, id) }
	if _, err := n.Add(t.Context(), "i-1", ns("i-1")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Remove(t.Context(), "i-1", ns("i-1")) }()
	if _, err := n.Add(t.Context(), "i-2", ns("i-2")); err != nil {
		t.Fatal(err)
	}
	// All others are another's.
	for a := n.Subnet().Addr().Next().Next(); n.Subnet().Contains(a); a = a.Next() {
		f, err := os.OpenFile(filepath.Join(n.leaseDir(), a.String()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("i-other\neth0"); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	_, err := n.Add(t.Context(), "i-3", ns("i-3"))
	p := problem.From(err)
	if err == nil || p.Rule != "addresses_used" || !strings.Contains(p.Actual, "addresses of "+n.Subnet().String()+" are taken") || p.Mend == "" {
		t.Errorf("%v", err)
	}
	if err := n.Remove(t.Context(), "i-3", ns("i-3")); err != nil {
		t.Error(err)
	}
	// One that ended gives its address back.
	if err := n.Remove(t.Context(), "i-2", ns("i-2")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Add(t.Context(), "i-3", ns("i-3")); err != nil {
		t.Errorf("with a free address: %v", err)
	}
	if err := n.Remove(t.Context(), "i-3", ns("i-3")); err != nil {
		t.Error(err)
	}
}

// TestHeldAddresses: who holds one is known, and one whose file a power cut emptied is
// given back.
func TestHeldAddresses(t *testing.T) {
	n := open(t, "0c0ffee5", PluginDir)
	path := filepath.Join(t.TempDir(), "ns")
	ip, err := n.Add(t.Context(), "i-1", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Remove(t.Context(), "i-1", path) }()
	if held, err := n.Held(); err != nil || !slices.Equal(held, []ident.AttemptID{"i-1"}) {
		t.Errorf("%q, %v", held, err)
	}
	empty := filepath.Join(n.leaseDir(), ip.Next().String())
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(n.cfg); err != nil {
		t.Fatal(err)
	}
	held, err := n.leases()
	if want := map[netip.Addr]ident.AttemptID{ip: "i-1"}; err != nil || len(held) != 1 || held[ip] != want[ip] {
		t.Errorf("after the next start: %v, %v; want %v", held, err, want)
	}
}

// TestForgottenNeighbour: whoever gets an address is not taken for who had it before.
func TestForgottenNeighbour(t *testing.T) {
	n := open(t, "0c0ffee6", PluginDir)
	link, err := netlink.LinkByName(n.Bridge())
	if err != nil {
		t.Fatal(err)
	}
	next := n.Gateway().Next() // the first that is given away
	old := &netlink.Neigh{LinkIndex: link.Attrs().Index, IP: next.AsSlice(), HardwareAddr: n.hardwareAddr(), State: netlink.NUD_PERMANENT}
	if err := netlink.NeighSet(old); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ns")
	ip, err := n.Add(t.Context(), "i-1", path)
	if err != nil || ip != next {
		t.Fatalf("%v, %v", ip, err)
	}
	defer func() { _ = n.Remove(t.Context(), "i-1", path) }()
	known, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range known {
		if k.HardwareAddr.String() == n.hardwareAddr().String() {
			t.Errorf("%v is still taken for its predecessor: %v", ip, k)
		}
	}
}
