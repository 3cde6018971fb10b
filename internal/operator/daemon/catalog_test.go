package daemon

import (
	"context"
	"errors"
	"log/slog"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	remotename "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/build"
	"cupel.dev/cupel/internal/operator/registry"
)

// TestDamagedRuntime: what is damaged in the registry is refused by its name, and listed as
// that, without a measurement; the others are listed and found.
func TestDamagedRuntime(t *testing.T) {
	dir := t.TempDir()
	c := &catalog{registry: serveRegistry(t, dir), locks: t.TempDir()}
	file := func(manifest string) string {
		return filepath.Join(dir, "docker", "registry", "v2", "blobs", "sha256", manifest[:2], manifest, "data")
	}
	store := func(name string) (manifest string) {
		img, err := random.Image(1024, 1, random.WithSource(rand.NewSource(int64(name[1]))))
		if err != nil {
			t.Fatal(err)
		}
		ref, err := remotename.ParseReference(c.registry.Addr() + "/" + string(build.ImageRef(ident.RuntimeName(name))))
		if err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if !exists(file(d.Hex)) {
			err = remote.Write(ref, img)
		}
		if err := errors.Join(err, remote.Put(ref, img)); err != nil {
			t.Fatal(err)
		}
		return d.Hex
	}
	damaged := file(store("puller"))
	store("python")

	for name, damage := range damages {
		if err := errors.Join(os.RemoveAll(damaged), damage(damaged)); err != nil {
			t.Fatal(err)
		}
		list, err := c.Runtimes(t.Context())
		if err != nil || len(list) != 2 || list[1].Name != "python" || list[1].Problem != nil || list[1].Measurement.IsZero() {
			t.Fatalf("%s: the list is %v, %v", name, list, err)
		}
		r, p := list[0], list[0].Problem
		if r.Name != "puller" || p == nil || p.Rule != registry.RuleDamaged || !strings.Contains(p.Mend, "cupel runtime build puller;") || r.Image != "" || !r.Measurement.IsZero() {
			t.Errorf("%s: it is listed as %+v", name, r)
		}
		if r, err := c.Runtime(t.Context(), "python"); err != nil || r.Name != "python" {
			t.Errorf("%s: another runtime: %v, %v", name, r, err)
		}
		_, err = c.Runtime(t.Context(), "puller")
		p = problem.From(err)
		if err == nil || p.Rule != registry.RuleDamaged || !strings.Contains(p.Mend, "cupel runtime build puller;") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, damage := range damages { // of a lock's copy
		lock := filepath.Join(c.locks, "python.lock")
		if err := damage(lock); err != nil {
			t.Fatal(err)
		}
		if r, err := c.Runtime(t.Context(), "python"); err != nil || !r.LockDigest.IsZero() {
			t.Errorf("a lock that is %s: %v, %v", name, r, err)
		}
		if err := os.RemoveAll(lock); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Runtime(t.Context(), "node")
	if p := problem.From(err); err == nil || p.Rule != "runtime" || !strings.Contains(p.Expected, "python") {
		t.Errorf("what isn't built: %v", err)
	}
	store("puller")
	if list, err := c.Runtimes(t.Context()); err != nil || len(list) != 2 || list[0].Problem != nil {
		t.Errorf("after it was stored again: %v, %v", list, err)
	}
}

// TestUnmeasurableRuntime: an image that no instance can have is listed with what is wrong
// with it, and a mend.
func TestUnmeasurableRuntime(t *testing.T) {
	c := &catalog{registry: serveRegistry(t, t.TempDir()), locks: t.TempDir()}
	img, err := random.Image(1024, 1, random.WithSource(rand.NewSource(1)))
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file.OS = "plan9"
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	ref, err := remotename.ParseReference(c.registry.Addr() + "/" + string(build.ImageRef("python")))
	if err := errors.Join(err, remote.Write(ref, img)); err != nil {
		t.Fatal(err)
	}
	list, err := c.Runtimes(t.Context())
	if err != nil || len(list) != 1 || list[0].Problem == nil || !list[0].Measurement.IsZero() || list[0].Image != "" {
		t.Fatalf("%+v, %v", list, err)
	}
	_, err = c.Runtime(t.Context(), "python")
	for _, p := range []*problem.Error{list[0].Problem, problem.From(err)} {
		if err == nil || p.Rule != "image_config" || !strings.Contains(p.Mend, "cupel runtime build python") {
			t.Errorf("%+v", p)
		}
	}
}

// serveRegistry runs the embedded registry until the test's end.
func serveRegistry(t *testing.T, dir string) *registry.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	s, err := registry.Open(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-served, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return registry.NewClient(ln.Addr().String())
}
