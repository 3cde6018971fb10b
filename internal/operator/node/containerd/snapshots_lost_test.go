package containerd_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/opencontainers/image-spec/identity"

	"cupel.dev/cupel/api/ident"
)

// TestSnapshotsLost: where containerd lost the list of what it unpacked, or a folder of it,
// the image is unpacked again, and instances start.
func TestSnapshotsLost(t *testing.T) {
	m := newMachine(t)
	m.pushImage(archive(t, "bin/app", []byte("a program")))
	l := m.live()
	defer func() { l.leave() }()
	l.ends("i-before")
	l.kill()
	m.loseSnapshots(l)
	l = m.live()
	l.ends("i-after")
}

// ends starts an instance that ends at once, and waits for that.
func (l *life) ends(id ident.AttemptID) {
	l.start(id, "exit", 0)
	l.status(id, exited)
}

// loseSnapshots ends containerd, and empties its list of what it unpacked.
func (m *machine) loseSnapshots(l *life) {
	m.t.Helper()
	if err := l.daemon.Stop(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(m.state, "containerd/root/io.containerd.snapshotter.v1.overlayfs/metadata.db"), 0); err != nil {
		m.t.Fatal(err)
	}
}

// interrupt leaves what the start of an instance does that died before containerd knew
// the container: a snapshot on the image's layers, and the lease that keeps it. Where
// that ends, containerd removes the snapshot.
func (m *machine) interrupt(l *life, id ident.AttemptID, end bool) {
	m.t.Helper()
	c, err := client.New(l.daemon.Address(), client.WithDefaultNamespace("cupel-"+m.id))
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	img, err := c.GetImage(m.t.Context(), string(m.image))
	if err != nil {
		m.t.Fatal(err)
	}
	layers, err := img.RootFS(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	lease, err := c.LeasesService().Create(m.t.Context(), leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err == nil {
		_, err = c.SnapshotService("overlayfs").Prepare(leases.WithLease(m.t.Context(), lease.ID), string(id), identity.ChainID(layers).String())
	}
	if err == nil && end {
		err = c.LeasesService().Delete(m.t.Context(), lease, leases.SynchronousDelete)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// TestSnapshotsLostUnderOthers: neither a snapshot of no instance, of which containerd lost
// all but the name, nor one that it removed itself keeps an image from being unpacked again.
func TestSnapshotsLostUnderOthers(t *testing.T) {
	m := newMachine(t)
	m.pushImage(archive(t, "bin/app", []byte("a program")))
	l := m.live()
	defer func() { l.leave() }()
	l.ends("i-before")
	m.interrupt(l, "i-interrupted-1", false)
	m.interrupt(l, "i-removed-1", true)
	l.kill()
	m.loseSnapshots(l)
	l = m.live()
	l.ends("i-after")
}

// TestSnapshotsLostBesideDamage: an image that a disk damaged doesn't keep another one from
// being unpacked again.
func TestSnapshotsLostBesideDamage(t *testing.T) {
	m := newMachine(t)
	m.pushImage(archive(t, "bin/app", []byte("program A")))
	l := m.live()
	defer func() { l.leave() }()
	l.ends("i-a")
	damaged := sha256.Sum256(m.config)
	m.pushImage(archive(t, "bin/app", []byte("program B")))
	l.ends("i-b")
	l.kill()
	m.loseSnapshots(l)
	if err := os.Remove(filepath.Join(m.state, "containerd/root/io.containerd.content.v1.content/blobs/sha256", hex.EncodeToString(damaged[:]))); err != nil {
		t.Fatal(err)
	}
	l = m.live()
	l.ends("i-after")
}
