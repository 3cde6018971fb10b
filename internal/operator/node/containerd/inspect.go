package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"

	containerd "github.com/containerd/containerd/v2/client"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/las"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/launch"
)

var _ las.Inspector = (*Runtime)(nil)

// Inspect implements las.Inspector: it looks at what runs under an id.
//
// The spec is the bundle's config.json, which is what the low-level runtime
// read. The image is the one whose layers the container's root stands on: the
// chain of the snapshot's parent has to be the chain of the image config's diff
// ids. The root has to be that snapshot, mounted in the bundle, with nothing in
// its upper layer but empty places to mount on. The first process has to be what
// that spec says, since the spec may have been another one when it was read.
func (r *Runtime) Inspect(ctx context.Context, id ident.AttemptID) (las.Launched, error) {
	ctx, cancel := context.WithTimeout(r.context(ctx), answerLimit)
	defer cancel()

	container, err := r.client.LoadContainer(ctx, string(id))
	if err != nil {
		return las.Launched{}, fmt.Errorf("inspect container: %w", err)
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return las.Launched{}, fmt.Errorf("inspect container: %w", err)
	}

	bundle := filepath.Join(r.cfg.Daemon.StateDir(), "io.containerd.runtime.v2.task", r.cfg.Namespace, string(id))
	spec, err := atomicfile.Read(filepath.Join(bundle, "config.json"))
	if err != nil {
		return las.Launched{}, fmt.Errorf("inspect container: %w", err)
	}

	paths, err := pathsOf(spec)
	if err != nil {
		return las.Launched{}, err
	}
	if paths.Root.Path != "rootfs" && paths.Root.Path != filepath.Join(bundle, "rootfs") {
		return las.Launched{}, fmt.Errorf("inspect container: its root is %q, not the bundle's", paths.Root.Path)
	}

	img, err := r.standsOn(ctx, container)
	if err != nil {
		return las.Launched{}, err
	}

	if err := r.rootUntouched(ctx, id, int(task.Pid()), paths.mountPoints()); err != nil {
		return las.Launched{}, err
	}
	if err := las.HoldProcess(int(task.Pid()), spec); err != nil {
		return las.Launched{}, err
	}

	return las.Launched{
		PID:    int(task.Pid()),
		Cgroup: cgroup.Path(paths.Linux.CgroupsPath),
		Spec:   spec,
		Image:  img,
	}, nil
}

// specPaths is the little of an OCI runtime spec (config.md) that is compared with the
// machine here; las.HoldProcess compares the rest.
type specPaths struct {
	Root struct {
		Path string `json:"path"`
	} `json:"root"`
	Linux struct {
		CgroupsPath string `json:"cgroupsPath"`
	} `json:"linux"`
	Mounts []struct {
		Destination string `json:"destination"`
	} `json:"mounts"`
}

func (p specPaths) mountPoints() []string {
	var out []string
	for _, m := range p.Mounts {
		out = append(out, m.Destination)
	}
	return out
}

// pathsOf reads them.
func pathsOf(spec []byte) (specPaths, error) {
	var p specPaths
	if err := json.Unmarshal(spec, &p); err != nil {
		return p, fmt.Errorf("inspect container: its spec: %w", err)
	}
	return p, nil
}

// standsOn returns the image whose unpacked layers are the parent of the
// container's snapshot.
func (r *Runtime) standsOn(ctx context.Context, c containerd.Container) (launch.ImageConfig, error) {
	img, err := c.Image(ctx)
	if err != nil {
		return launch.ImageConfig{}, fmt.Errorf("inspect container: its image: %w", err)
	}

	b, err := r.imageConfig(ctx, img)
	if err != nil {
		return launch.ImageConfig{}, err
	}
	config, err := launch.ParseImageConfig(b)
	if err != nil {
		return launch.ImageConfig{}, err
	}

	info, err := r.client.SnapshotService(snapshotter).Stat(ctx, c.ID())
	if err != nil {
		return launch.ImageConfig{}, fmt.Errorf("inspect container: its snapshot: %w", err)
	}

	if want := chainID(config.DiffIDs); info.Parent != want {
		return launch.ImageConfig{}, fmt.Errorf("inspect container: its root stands on %s, its image says %s", info.Parent, want)
	}
	return config, nil
}

// chainID names a stack of layers (OCI image specification 1.0, config.md, "Layer
// ChainID").
func chainID(diffIDs []ident.Digest) string {
	chain := ""
	for _, d := range diffIDs {
		layer := "sha256:" + d.String()
		if chain == "" {
			chain = layer
			continue
		}
		chain = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(chain+" "+layer)))
	}
	return chain
}
