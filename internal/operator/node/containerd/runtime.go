package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/procfs"
)

const (
	snapshotter = "overlayfs"
	runtimeName = "io.containerd.runc.v2"
	// answerLimit is how long containerd may take to say what it knows.
	answerLimit = time.Minute
	specType    = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
)

// Config says how instances run on a daemon.
type Config struct {
	Daemon    *Daemon
	Namespace string // containerd's, of this installation
	RuncRoot  string // runc's state, of this installation
	Logger    *slog.Logger
}

// Runtime implements node.Runtime, node.Monitor, node.Images and las.Inspector.
type Runtime struct {
	cfg    Config
	client *containerd.Client
	puller *containerd.Client // brings images, and unpacks them durably

	// pulling is held by each fetch of an image, and exclusively while what one left is
	// removed.
	pulling sync.RWMutex

	mu    sync.Mutex
	tasks map[ident.AttemptID]*sync.Mutex      // by container: one end of its task at a time
	seen  map[ident.AttemptID][]procfs.Command // shims by container, when Leftovers looked last
}

var (
	_ node.Runtime = (*Runtime)(nil)
	_ node.Monitor = (*Runtime)(nil)
	_ node.Images  = (*Runtime)(nil)
)

// New connects to the daemon. The connections mend themselves when it restarts.
func New(cfg Config) (*Runtime, error) {
	client, err := containerd.New(cfg.Daemon.Address(), containerd.WithDefaultNamespace(cfg.Namespace))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}

	puller, err := containerd.New(cfg.Daemon.Address(), containerd.WithDefaultNamespace(cfg.Namespace),
		containerd.WithServices(containerd.WithDiffService(onDisk{client.DiffService()})))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to containerd: %w", err), client.Close())
	}

	return &Runtime{
		cfg:    cfg,
		client: client,
		puller: puller,
		tasks:  map[ident.AttemptID]*sync.Mutex{},
	}, nil
}

// Close ends the connections.
func (r *Runtime) Close() error { return errors.Join(r.puller.Close(), r.client.Close()) }

// EndLeases ends what an earlier process had containerd keep while it made a
// container or brought an image, and died over it. Nothing else may be under way.
func (r *Runtime) EndLeases(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(r.context(ctx), answerLimit)
	defer cancel()

	service := r.client.LeasesService()
	list, err := service.List(ctx)
	if err != nil {
		return fmt.Errorf("list containerd's leases: %w", err)
	}

	var errs []error
	for _, l := range list {
		if err := service.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("end containerd's lease %s: %w", l.ID, err))
		}
	}
	return errors.Join(errs...)
}

// context is ctx with containerd's namespace of this installation.
func (r *Runtime) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, r.cfg.Namespace)
}

// Start implements node.Runtime.
func (r *Runtime) Start(ctx context.Context, c node.Container) error {
	ctx = r.context(ctx)

	logURI, err := url.Parse(c.LogURI)
	if err != nil {
		return fmt.Errorf("start container: log: %w", err)
	}
	img, err := r.client.GetImage(ctx, string(c.Image))
	if err != nil {
		return imageError(c.Image, err)
	}

	if err := r.start(ctx, c, img, logURI); err != nil {
		r.lookForShims() // a daemon that died over it doesn't know of one
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return errors.Join(startError(c.ID, err), r.Delete(undo, c.ID))
	}
	return nil
}

// start makes the container's record and snapshot, and then runs it.
func (r *Runtime) start(ctx context.Context, c node.Container, img containerd.Image, logURI *url.URL) error {
	container, err := r.client.NewContainer(ctx, string(c.ID),
		containerd.WithSnapshotter(snapshotter),
		containerd.WithNewSnapshot(string(c.ID), img),
		containerd.WithRuntime(runtimeName, &options.Options{Root: r.cfg.RuncRoot}),
		containerd.WithContainerLabels(c.Labels),
		// The very bytes: no round trip through somebody's types.
		func(_ context.Context, _ *containerd.Client, rec *containers.Container) error {
			rec.Spec = rawSpec(c.Spec)
			return nil
		},
	)
	if err != nil {
		return err
	}

	// The task is the container's first process. The shim that looks after it, and that
	// starts the log writer, is no child of the daemon's.
	task, err := container.NewTask(ctx, cio.LogURI(logURI))
	if err != nil {
		return err
	}
	return task.Start(ctx)
}

// rawSpec is a runtime spec's bytes in the envelope that containerd stores.
type rawSpec []byte

// GetTypeUrl implements typeurl.Any.
func (rawSpec) GetTypeUrl() string { return specType }

// GetValue implements typeurl.Any.
func (s rawSpec) GetValue() []byte { return s }

// startError explains a failed start as far as it can be known.
func startError(id ident.AttemptID, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("start instance %s: %w", id, err)
	}
	return problem.New(problem.Unavailable, ruleContainerStart, "start instance %s: %w", id, err).
		Fix("look at the node's containerd log")
}

// Kill implements node.Runtime.
func (r *Runtime) Kill(ctx context.Context, id ident.AttemptID, signal syscall.Signal) error {
	_, err := r.client.TaskService().Kill(r.context(ctx), &tasks.KillRequest{
		ContainerID: string(id),
		Signal:      uint32(signal),
		All:         signal == syscall.SIGKILL,
	})
	if err != nil && !isGone(err) {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// lock keeps Reap and Delete apart: the shim answers to neither while it goes.
func (r *Runtime) lock(id ident.AttemptID) *sync.Mutex {
	r.mu.Lock()
	defer r.mu.Unlock()

	if r.tasks[id] == nil {
		r.tasks[id] = &sync.Mutex{}
	}
	return r.tasks[id]
}

// Reap implements node.Runtime.
func (r *Runtime) Reap(ctx context.Context, id ident.AttemptID) error {
	l := r.lock(id)
	l.Lock()
	defer l.Unlock()

	_, err := r.client.TaskService().Delete(r.context(ctx), &tasks.DeleteTaskRequest{ContainerID: string(id)})
	if err != nil && !isGone(err) && !isRunning(err) {
		return fmt.Errorf("reap container %s: %w", id, err)
	}
	return nil
}

// deleteTries is how often a Delete is begun: a shim that ends by itself at the
// same time makes the first one fail.
const deleteTries = 5

// Delete implements node.Runtime.
func (r *Runtime) Delete(ctx context.Context, id ident.AttemptID) error {
	ctx = r.context(ctx)
	l := r.lock(id)
	l.Lock()
	defer l.Unlock()

	var err error
	for i := range deleteTries {
		if err = r.delete(ctx, id); err == nil {
			err = r.endShims(ctx, id)
		}

		if err == nil {
			r.mu.Lock()
			delete(r.tasks, id)
			r.mu.Unlock()
			return nil
		}

		select {
		case <-ctx.Done():
			return fmt.Errorf("delete container %s: %w", id, err)
		case <-time.After(time.Duration(i+1) * 100 * time.Millisecond):
		}
	}
	return fmt.Errorf("delete container %s: %w", id, err)
}

// delete tries once to free all that containerd has of a container.
func (r *Runtime) delete(ctx context.Context, id ident.AttemptID) error {
	container, err := r.client.LoadContainer(ctx, string(id))
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}

	if err == nil {
		task, err := container.Task(ctx, nil)
		if err == nil {
			_, err = task.Delete(ctx, containerd.WithProcessKill)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("end it: %w", err)
		}
		if err := container.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}

	// By itself: an interrupted start leaves a snapshot without a container.
	if err := r.client.SnapshotService(snapshotter).Remove(ctx, string(id)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("its snapshot: %w", err)
	}
	return nil
}

// List implements node.Runtime.
func (r *Runtime) List(ctx context.Context) ([]node.ContainerState, error) {
	ctx = r.context(ctx)
	records, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}

	reply, err := r.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}

	byID := map[string]*tasktypes.Process{}
	for _, t := range reply.Tasks {
		byID[t.ID] = t
	}

	out := make([]node.ContainerState, 0, len(records))
	for _, c := range records {
		s := node.ContainerState{ID: ident.AttemptID(c.ID)}
		if t := byID[c.ID]; t != nil {
			s.Running = t.Status != tasktypes.Status_STOPPED
			if s.Running {
				s.PID = int(t.Pid)
			} else {
				s.ExitCode, s.ExitedAt = int(t.ExitStatus), t.ExitedAt.AsTime()
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// Leftovers implements node.Runtime: containers, snapshots that an interrupted start
// left without one, and shims that outlived a daemon which did not know them yet.
func (r *Runtime) Leftovers(ctx context.Context) ([]ident.AttemptID, error) {
	ctx = r.context(ctx)
	records, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}

	var ids []ident.AttemptID
	for _, c := range records {
		ids = append(ids, ident.AttemptID(c.ID))
	}

	err = r.client.SnapshotService(snapshotter).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindActive {
			ids = append(ids, ident.AttemptID(info.Name))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}

	shims, err := r.shims()
	if err != nil {
		return nil, err
	}

	r.mu.Lock()
	r.seen = shims
	r.mu.Unlock()
	return slices.AppendSeq(ids, maps.Keys(shims)), nil
}

// Watch implements node.Monitor.
func (r *Runtime) Watch(ctx context.Context) <-chan node.Event {
	ctx = r.context(ctx)
	out := make(chan node.Event)

	go func() {
		defer close(out)

		for ctx.Err() == nil {
			r.forward(ctx, out)
			// The daemon went away, and events with it.
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return out
}

// forward sends events until the subscription ends.
func (r *Runtime) forward(ctx context.Context, out chan<- node.Event) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	envelopes, errs := r.client.Subscribe(ctx, `topic=="/tasks/exit"`, `topic=="/tasks/oom"`)
	events := make(chan node.Event, 1)
	events <- node.Event{} // what happened before we listened

	for {
		var e node.Event
		select {
		case e = <-events:
		case err := <-errs:
			if ctx.Err() == nil {
				r.cfg.Logger.DebugContext(ctx, "containerd's events ended", "error", err)
			}
			return

		case env := <-envelopes:
			if env == nil || env.Namespace != r.cfg.Namespace {
				continue
			}

			v, err := typeurl.UnmarshalAny(env.Event)
			if err != nil {
				r.cfg.Logger.WarnContext(ctx, "containerd event not understood", "error", err)
				continue
			}

			switch v := v.(type) {
			case *eventtypes.TaskExit:
				if v.ID != v.ContainerID {
					continue
				}
				e = node.Event{ID: ident.AttemptID(v.ContainerID)}
			case *eventtypes.TaskOOM:
				e = node.Event{ID: ident.AttemptID(v.ContainerID), OOM: true}
			default:
				continue
			}
		}

		select {
		case out <- e:
		case <-ctx.Done():
			return
		}
	}
}

// isGone says that containerd knows no such task.
func isGone(err error) bool { return errdefs.IsNotFound(grpcError(err)) }

// isRunning says that containerd refuses, as the task still runs.
func isRunning(err error) bool { return errdefs.IsFailedPrecondition(grpcError(err)) }
