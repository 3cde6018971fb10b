package cni

import (
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/operator/node/sysctl"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/testing/netlab"
)

// Whatever another program changes of bridge, address and forwarding is noticed by
// the next look, told, and put right; an instance that was connected is again, both ways.
func TestRestore(t *testing.T) {
	need.Root(t)
	need.Programs(t, "ip", "sysctl")
	need.File(t, filepath.Join(PluginDir, "bridge"))
	s := netlab.New(t)
	in := func(f func() error) {
		t.Helper()
		var err error
		s.Do(func() { err = f() })
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	var n *Network
	in(func() (err error) {
		n, err = Open(Config{Dir: filepath.Join(dir, "cni"), ID: "0c0ffee2", PluginDir: PluginDir,
			Sysctl: sysctl.Keeper{Dir: filepath.Join(dir, "sysctl"), Proc: "/proc/sys"}})
		return err
	})
	path := filepath.Join(dir, "ns")
	var ip netip.Addr
	in(func() (err error) { ip, err = n.Add(t.Context(), "i-1", path); return err })
	defer in(func() error { return n.Remove(t.Context(), "i-1", path) })
	look := func() (found string) {
		t.Helper()
		in(func() (err error) { found, err = n.Restore(); return err })
		return found
	}
	if found := look(); found != "" {
		t.Errorf("nothing happened: %q", found)
	}
	for _, tt := range []struct{ does, told string }{
		{"ip link set BRIDGE down", "took the bridge BRIDGE down"},
		{"ip link del BRIDGE", "deleted the bridge BRIDGE"},
		{"ip addr flush dev BRIDGE", "took the address GATEWAY off"},
		{"rm -r NOTES", "another program removed NOTES"},
		{"sysctl -qw net.ipv4.ip_forward=0", "net.ipv4.ip_forward to 0"},
		{"sysctl -qw net.ipv4.conf.BRIDGE.forwarding=0", "net.ipv4.conf.BRIDGE.forwarding to 0"},
		{"for i in $(ls -d /proc/sys/net/ipv4/conf/veth*); do ip link set ${i##*/} nomaster; done", "1 instance taken off"},
		{"for i in $(ls -d /proc/sys/net/ipv4/conf/veth*); do ip link del ${i##*/}; done", "deleted the link of 1 instance"},
	} {
		fill := strings.NewReplacer("NOTES", filepath.Join(dir, "sysctl"), "BRIDGE", n.Bridge(), "GATEWAY", n.Gateway().String())
		in(func() error { return exec.Command("sh", "-ec", fill.Replace(tt.does)).Run() })
		if found := look(); !strings.Contains(found, fill.Replace(tt.told)) {
			t.Errorf("%s: %q, want %q", tt.does, found, fill.Replace(tt.told))
		}
		if found := look(); found != "" {
			t.Errorf("%s: once more: %q", tt.does, found)
		}
		// An instance that is connected refuses: nobody listens there.
		var out []byte
		s.Do(func() {
			out, _ = exec.Command("timeout", "3", "bash", "-c", "echo > /dev/tcp/"+ip.String()+"/9").CombinedOutput()
		})
		if !strings.Contains(string(out), "refused") {
			t.Errorf("%s: the instance isn't reached: %s", tt.does, out)
		}
		if out, err := exec.Command("nsenter", "--net="+path, "timeout", "3", "bash", "-c", "echo > /dev/udp/192.0.2.1/9").CombinedOutput(); err != nil {
			t.Errorf("%s: the instance has no way out: %s", tt.does, out)
		}
	}
}
