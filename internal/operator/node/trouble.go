package node

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
)

// Events about instances' traces on the machine.
const (
	reasonDamaged = "record_damaged"
	reasonRemoved = "leftover_removed"
	// reasonVolumeDamaged tells that a damaged snapshot was replaced by the registry's copy.
	reasonVolumeDamaged = string(ruleVolumeDamaged)
	// ReasonStopped tells of a process of an instance's that was stopped by a signal.
	ReasonStopped = "process_stopped"
)

// Deadlines of calls. Nothing that answers at all takes so long, under whatever load.
const (
	lookLimit    = time.Minute     // ask what there is; send a signal
	startLimit   = 2 * time.Minute // of a container
	slowStart    = 10 * time.Second
	deleteLimit  = 2 * time.Minute
	networkLimit = time.Minute      // connect or disconnect one instance
	fetchLimit   = 15 * time.Minute // of an image, from wherever it is
)

// tell says what happened, to the operator and to whose the instance is.
func (n *Node) tell(ctx context.Context, in manager.Incident) {
	if in.Warning {
		n.cfg.Logger.WarnContext(ctx, in.Message, "reason", in.Reason, "instance", in.Instance)
	} else {
		n.cfg.Logger.InfoContext(ctx, in.Message, "reason", in.Reason, "instance", in.Instance)
	}
	if n.cfg.Tell != nil {
		n.cfg.Tell(in)
	}
}

// note takes note of how something went that is tried again: what was tried, and of which
// instance; none, where it isn't of one alone.
func (n *Node) note(ctx context.Context, what string, instance ident.AttemptID, err error) {
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return // we end: it says nothing
	}
	n.troubles.Note(what, instance, err)
}

// hangs explains a call that was given up: what the part of the machine did not do within
// the limit.
type hangs func(what string, limit time.Duration, err error) error

func containerdHangs(what string, limit time.Duration, err error) error {
	return problem.New(problem.Unavailable, RuleContainerdHangs, "containerd did not %s within %s: %w", what, problem.Duration(limit), err).
		Fix("see what holds it: STATE/containerd/containerd.log, the disk, a runc or shim that hangs (ps -ef | grep runc); kill containerd and cupeld starts it again, apps go on")
}

func startSlow() error {
	return problem.New(problem.Unavailable, ruleStartSlow, "runc create has run for %s, which takes less than a second as a rule", problem.Duration(slowStart)).
		Fix("it is waited for, %s in all, and then tried again. See what holds it: ps -ef | grep runc (kill -CONT a runc that was stopped), the disk, the machine's load", problem.Duration(startLimit))
}

func networkHangs(what string, limit time.Duration, err error) error {
	return problem.New(problem.Unavailable, ruleNetworkHangs, "the CNI plugins did not %s within %s: %w", what, problem.Duration(limit), err).
		Fix("see what holds them: ps -ef | grep cni, and locks below STATE/cni")
}

// limited is a call of a part of the machine that may hang: when it is given up, and how
// that is explained.
type limited struct {
	node  *Node
	what  string // what the part is to do, for people
	limit time.Duration
	hangs hangs
}

func (n *Node) ofContainerd(what string, limit time.Duration) limited {
	return limited{n, what, limit, containerdHangs}
}

func (n *Node) ofPlugins(what string, limit time.Duration) limited {
	return limited{n, what, limit, networkHangs}
}

// call makes one call of a part of the machine that may hang, with a deadline.
func call[T any](ctx context.Context, l limited, f func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, l.limit)
	defer cancel()

	out, err := f(bounded)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		err = l.hangs(l.what, l.limit, err)
		l.node.note(ctx, l.what, "", err)
	} else if err == nil {
		l.node.note(ctx, l.what, "", nil)
	}
	return out, err
}

// do is a call that returns nothing but how it went.
func do(ctx context.Context, l limited, f func(context.Context) error) error {
	_, err := call(ctx, l, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// boundedRuntime is a Runtime each of whose calls ends.
type boundedRuntime struct {
	Runtime
	node *Node
}

// Start tells before its deadline that one takes long: who waits for the instance would
// hear nothing until then.
func (b boundedRuntime) Start(ctx context.Context, c Container) (err error) {
	const what = "start the container"
	told := make(chan struct{}) // closed once it was
	slow := time.AfterFunc(slowStart, func() {
		defer close(told)
		b.node.note(ctx, what, c.ID, startSlow())
	})
	defer func() {
		if slow.Stop() {
			return
		}

		<-told
		if err == nil {
			b.node.note(ctx, what, c.ID, nil)
		}
	}()

	return do(ctx, b.node.ofContainerd("start a container", startLimit), func(ctx context.Context) error { return b.Runtime.Start(ctx, c) })
}

func (b boundedRuntime) Kill(ctx context.Context, id ident.AttemptID, signal syscall.Signal) error {
	return do(ctx, b.node.ofContainerd("send a signal", lookLimit), func(ctx context.Context) error { return b.Runtime.Kill(ctx, id, signal) })
}

func (b boundedRuntime) Reap(ctx context.Context, id ident.AttemptID) error {
	return do(ctx, b.node.ofContainerd("let go of what ended", lookLimit), func(ctx context.Context) error { return b.Runtime.Reap(ctx, id) })
}

func (b boundedRuntime) Delete(ctx context.Context, id ident.AttemptID) error {
	return do(ctx, b.node.ofContainerd("remove a container", deleteLimit), func(ctx context.Context) error { return b.Runtime.Delete(ctx, id) })
}

func (b boundedRuntime) List(ctx context.Context) ([]ContainerState, error) {
	return call(ctx, b.node.ofContainerd("list containers", lookLimit), b.Runtime.List)
}

func (b boundedRuntime) Leftovers(ctx context.Context) ([]ident.AttemptID, error) {
	return call(ctx, b.node.ofContainerd("list what is left", lookLimit), b.Runtime.Leftovers)
}

// boundedImages are Images each of whose calls ends.
type boundedImages struct {
	Images
	node *Node
	turn chan struct{} // full while an image is brought
}

func newBoundedImages(images Images, n *Node) boundedImages {
	return boundedImages{images, n, make(chan struct{}, 1)}
}

// Ensure brings one image at a time. The wait for others is no part of the time that
// one may take, and an image that is here waits for nobody.
func (b boundedImages) Ensure(ctx context.Context, ref ident.ImageRef) (Image, error) {
	img, err := b.Find(ctx, ref)
	if err == nil || problem.From(err).Rule == RuleContainerdHangs {
		return img, err
	}

	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return Image{}, ctx.Err()
	}
	defer func() { <-b.turn }()

	return call(ctx, b.node.ofContainerd("bring an image", fetchLimit), func(ctx context.Context) (Image, error) { return b.Images.Ensure(ctx, ref) })
}

func (b boundedImages) Find(ctx context.Context, ref ident.ImageRef) (Image, error) {
	return call(ctx, b.node.ofContainerd("look at an image", lookLimit), func(ctx context.Context) (Image, error) { return b.Images.Find(ctx, ref) })
}

// boundedNetwork is a Network each of whose calls ends.
type boundedNetwork struct {
	Network
	node *Node
}

func (b boundedNetwork) Add(ctx context.Context, id ident.AttemptID, path string) (netip.Addr, error) {
	return call(ctx, b.node.ofPlugins("connect an instance", networkLimit), func(ctx context.Context) (netip.Addr, error) { return b.Network.Add(ctx, id, path) })
}

func (b boundedNetwork) Remove(ctx context.Context, id ident.AttemptID, path string) error {
	return do(ctx, b.node.ofPlugins("disconnect an instance", networkLimit), func(ctx context.Context) error { return b.Network.Remove(ctx, id, path) })
}
