package cni

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cupel.dev/cupel/api/ident"
)

// TestDamagedLeases: an address whose file is empty or no file is given back, and the
// others stay whose they are.
func TestDamagedLeases(t *testing.T) {
	n := &Network{cfg: Config{Dir: t.TempDir(), ID: "0c0ffee3"}}
	at := func(name string) string { return filepath.Join(n.leaseDir(), name) }
	err := errors.Join(
		os.MkdirAll(at("10.0.0.4"), 0o700),
		os.WriteFile(at("10.0.0.4/x"), nil, 0o600),
		os.WriteFile(at("10.0.0.2"), []byte("i-1\r\neth0"), 0o600),
		os.WriteFile(at("10.0.0.3"), nil, 0o600),
		os.Symlink(at("10.0.0.5"), at("10.0.0.5")),
		os.WriteFile(at("lock"), nil, 0o600),
		os.WriteFile(at("last_reserved_ip.0"), nil, 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	if held, err := n.Held(); err != nil || !slices.Equal(held, []ident.AttemptID{"i-1"}) {
		t.Errorf("held by %v, %v", held, err)
	}
	if err := n.dropNameless(); err != nil {
		t.Error(err)
	}
	left, err := n.leases()
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}
