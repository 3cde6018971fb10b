package cni

import (
	"os"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/sysctl"
	"cupel.dev/cupel/internal/testing/need"
)

func TestMissingPlugins(t *testing.T) {
	_, err := Open(Config{Dir: t.TempDir(), ID: "00000000", PluginDir: t.TempDir()})
	if p := problem.From(err); err == nil || p.Rule != "cni_missing" || p.Mend == "" {
		t.Errorf("%v", err)
	}
}

// TestNetwork needs root: it makes a bridge and a namespace, and takes both away.
func TestNetwork(t *testing.T) {
	need.Root(t)
	need.File(t, filepath.Join(PluginDir, "bridge"))
	dir := t.TempDir()
	cfg := Config{Dir: filepath.Join(dir, "cni"), ID: "0c0ffee0", PluginDir: PluginDir, Sysctl: sysctl.Default()}
	n, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	path := filepath.Join(dir, "ns")
	defer func() {
		if err := n.Remove(t.Context(), "i-1", path); err != nil {
			t.Error(err)
		}
	}()
	ip, err := n.Add(t.Context(), "i-1", path)
	if err != nil {
		t.Fatal(err)
	}
	if !n.Subnet().Contains(ip) || ip == n.Gateway() || !isNamespace(path) {
		t.Errorf("address %v in %v", ip, n.Subnet())
	}
	// Another process over the same state keeps the subnet.
	again, err := Open(cfg)
	if err != nil || again.Subnet() != n.Subnet() {
		t.Fatalf("%v, %v; was %v", again.Subnet(), err, n.Subnet())
	}
	for range 2 {
		if err := again.Remove(t.Context(), "i-1", path); err != nil {
			t.Fatal(err)
		}
	}
	if leases, _ := filepath.Glob(filepath.Join(cfg.Dir, "leases", "*", "10.*")); len(leases) > 0 {
		t.Errorf("leases left: %v", leases)
	}
	// A half-made namespace, and a connection that broke off, are made whole.
	if err := os.WriteFile(path, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Add(t.Context(), "i-1", path); err != nil {
		t.Error(err)
	}
	if err := again.Remove(t.Context(), "i-1", path); err != nil {
		t.Error(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/sys/class/net/" + n.Bridge()); err == nil {
		t.Error("the bridge stays")
	}
}
