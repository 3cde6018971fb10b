package containerd

import (
	"context"
	"fmt"
	"os"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// onDisk unpacks layers, and returns when what was unpacked is on the disk. containerd
// writes into its database, durably, that a layer is there, and leaves the layer's files
// to the kernel: after a power cut they would be empty, and nobody would unpack them
// again.
type onDisk struct{ containerd.DiffService }

// Apply implements diff.Applier.
func (d onDisk) Apply(ctx context.Context, layer ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	out, err := d.DiffService.Apply(ctx, layer, mounts, opts...)
	if err != nil {
		return out, err
	}
	return out, syncFilesystem(written(mounts))
}

// written is the folder that a layer is unpacked into: the first one has it to itself,
// those on top of others as the upper one.
func written(mounts []mount.Mount) string {
	if upper := overlayOption(mounts, "upperdir="); upper != "" {
		return upper
	}
	return mounts[0].Source
}

// syncFilesystem returns when all that was written to a folder's filesystem is on the
// disk, or with what the disk refused of it.
func syncFilesystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("bring what was unpacked onto the disk: %w", err)
	}
	defer f.Close()

	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("bring what was unpacked in %s onto the disk: %w", dir, err)
	}
	return nil
}
