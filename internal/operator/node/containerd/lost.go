package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// labelUnpacked is the label of an image's config that names the snapshot with all of the
// image's layers, and keeps it.
const labelUnpacked = "containerd.io/gc.ref.snapshot." + snapshotter

// forgetLost removes the names of snapshots that are no more: containerd wouldn't unpack
// anything under one that it has, and says of it that it isn't there.
//
// Those of layers go as what nothing refers to. To be told to remove one, containerd refuses
// where there was another one on top of it, be it of an instance that is no more: it
// doesn't notice that it removed that one itself.
func (r *Runtime) forgetLost(ctx context.Context) error {
	if !r.pulling.TryLock() {
		return nil // what another fetch unpacks isn't lost; the next try comes
	}
	defer r.pulling.Unlock()

	records, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return err
	}

	service := r.client.SnapshotService(snapshotter)
	for _, c := range records {
		if !r.lost(ctx, c.SnapshotKey) {
			continue
		}
		if err := service.Remove(ctx, c.SnapshotKey); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("forget the lost snapshot %s: %w", c.SnapshotKey, err)
		}
	}

	if err := r.releaseLost(ctx); err != nil {
		return err
	}
	if err := r.collectGarbage(ctx); err != nil {
		return err
	}
	return r.moveLost(ctx)
}

// lost tells whether a snapshot isn't there, whether containerd has its name or not.
func (r *Runtime) lost(ctx context.Context, name string) bool {
	_, err := r.client.SnapshotService(snapshotter).Stat(ctx, name)
	return errdefs.IsNotFound(err)
}

// releaseLost takes from images what refers to lost snapshots. An image that can't be read
// isn't asked for it.
func (r *Runtime) releaseLost(ctx context.Context) error {
	store := r.client.ContentStore()
	var configs []content.Info
	err := store.Walk(ctx, func(info content.Info) error {
		if r.lost(ctx, info.Labels[labelUnpacked]) {
			configs = append(configs, info)
		}
		return nil
	}, fmt.Sprintf("labels.%q", labelUnpacked))

	for _, config := range configs {
		delete(config.Labels, labelUnpacked)
		_, uerr := store.Update(ctx, config, "labels."+labelUnpacked)
		err = errors.Join(err, uerr)
	}

	if err != nil {
		return fmt.Errorf("let go of lost snapshots: %w", err)
	}
	return nil
}

// collectGarbage has containerd remove what nothing refers to. It does so where a lease
// ends, if it is asked to.
func (r *Runtime) collectGarbage(ctx context.Context) error {
	service := r.client.LeasesService()
	lease, err := service.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err == nil {
		err = service.Delete(ctx, lease, leases.SynchronousDelete)
	}
	if err != nil {
		return fmt.Errorf("have containerd remove what nothing refers to: %w", err)
	}
	return nil
}

// moveLost gives the folders of snapshots other names, where the list of all of them was
// lost: a new list counts from one again, and finds them in its way. containerd removes
// what its list doesn't name when it tidies up.
func (r *Runtime) moveLost(ctx context.Context) error {
	known := false
	err := r.client.SnapshotService(snapshotter).Walk(ctx, func(context.Context, snapshots.Info) error {
		known = true
		return nil
	})
	if err != nil || known {
		return err
	}

	dir := r.cfg.Daemon.path("root", "io.containerd.snapshotter.v1."+snapshotter, "snapshots")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("move the folders of lost snapshots: %w", err)
	}

	for _, e := range entries {
		to := filepath.Join(dir, "lost-"+strconv.FormatInt(time.Now().UnixNano(), 36)+"-"+e.Name())
		if err := os.Rename(filepath.Join(dir, e.Name()), to); err != nil {
			return fmt.Errorf("move the folders of lost snapshots: %w", err)
		}
	}
	return nil
}
