package node

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/launch"
)

// TestVariantLaunches: each order on a launch changes its measurement, but the
// rogue CAS address, which is free: the launcher refuses that CAS itself.
func TestVariantLaunches(t *testing.T) {
	img := launch.ImageConfig{DiffIDs: []ident.Digest{{1}}, Entrypoint: []string{"/bin/app"}}
	want, err := launch.Expected(launch.Newest, img, ident.Digest{2})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "orders")
	t.Setenv("CUPEL_HOSTILE", "@"+file)
	for order, same := range map[string]bool{
		"":                         true,
		"cas=rogue:1":              true,
		"bind=/tmp/x:/usr/bin/git": false,
		"env=LD_PRELOAD=/x":        false,
		"image-env=LD_PRELOAD=/x":  false,
		"entrypoint=/bin/sh":       false,
		"args=/bin/sh":             false,
		"hook=/bin/true":           false,
		"caps=CAP_SYS_PTRACE":      false,
	} {
		if err := os.WriteFile(file, []byte(order), 0o600); err != nil {
			t.Fatal(err)
		}
		free := launch.Free{Memory: 1 << 20}
		spec, err := launchSpec(launch.Newest, img, free)
		if err != nil {
			t.Fatal(err)
		}
		if rogue := bytes.Contains(spec, []byte("rogue:1")); rogue != (order == "cas=rogue:1") {
			t.Errorf("%s: the rogue CAS's address in the specification: %t", order, rogue)
		}
		got, err := launch.Measure(spec, img, ident.Digest{2})
		if err != nil || (got == want) != same {
			t.Errorf("%s: same measurement %v, want %v (%v)", order, got == want, same, err)
		}
	}
}

func TestVariantVolumes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders")
	t.Setenv("CUPEL_HOSTILE", "@"+file)
	s := store(t, nil)
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
	a, b := ident.Digest{1}, ident.Digest{2}
	for g, text := range []string{1: "one", 2: "two!"} {
		if g == 0 {
			continue
		}
		if err := put(n, a, uint64(g), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(n, b, 1, "other"); err != nil {
		t.Fatal(err)
	}
	for order, want := range map[string]string{
		"": "two!", "volume=older": "one", "volume=short": "tw", "volume=flip": "twn!", "volume=swap": "other",
	} {
		if err := os.WriteFile(file, []byte(order), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := get(t, n, named(a, 2, "two!")); got != want {
			t.Errorf("%s: %q, want %q", order, got, want)
		}
	}
}
