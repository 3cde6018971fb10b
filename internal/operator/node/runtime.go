package node

import (
	"context"
	"io"
	"net/netip"
	"syscall"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Runtime runs containers. They outlive this process, and are found again by
// List. Methods are safe for concurrent use.
type Runtime interface {
	// Start makes a container with that spec on the image and starts it. What
	// a failed or cancelled Start made, it removes.
	Start(ctx context.Context, c Container) error
	// Kill signals the container's first process. A container that has exited
	// or is unknown is no error.
	Kill(ctx context.Context, id ident.AttemptID, signal syscall.Signal) error
	// Reap frees the processes that an exited container still needs (its shim,
	// the writer of its log, which then ends the log). One that runs is left
	// alone, an unknown one is no error.
	Reap(ctx context.Context, id ident.AttemptID) error
	// Delete ends the container if it runs and frees all of it, also what an
	// interrupted Start left. An unknown one is no error.
	Delete(ctx context.Context, id ident.AttemptID) error
	// List returns every container that Start made.
	List(ctx context.Context) ([]ContainerState, error)
	// Leftovers returns the ids of which anything is there at all, also without a
	// container: a snapshot, a process that looked after one. Delete frees it.
	Leftovers(ctx context.Context) ([]ident.AttemptID, error)
}

// Monitor tells of changes of a Runtime's containers.
type Monitor interface {
	// Watch sends events until ctx ends, then closes the channel.
	Watch(ctx context.Context) <-chan Event
}

// Container is what Runtime.Start needs.
type Container struct {
	ID     ident.AttemptID
	Image  ident.ImageRef    // that Images.Ensure was given
	Spec   []byte            // OCI runtime spec; handed to the low-level runtime as it is
	Labels map[string]string // kept
	LogURI string            // where its output goes
}

// ContainerState is what Runtime.List knows.
type ContainerState struct {
	ID       ident.AttemptID
	Running  bool
	PID      int       // of its first process, when running
	ExitCode int       // when not running
	ExitedAt time.Time // zero: unknown, the machine or its containers went down
}

// Event is one change of a container. An empty ID means that events may have
// been lost: look at List.
type Event struct {
	ID  ident.AttemptID
	OOM bool // a process of it was killed for want of memory; else it exited
}

// Images brings images here and unpacks them.
type Images interface {
	// Ensure returns the image of ref, fetched if it isn't here. It is called for one
	// image at a time.
	Ensure(ctx context.Context, ref ident.ImageRef) (Image, error)
	// Find returns the image of ref if it is here; otherwise NotFound.
	Find(ctx context.Context, ref ident.ImageRef) (Image, error)
}

// Image is one image that is here.
type Image struct {
	Manifest ident.Digest
	Config   []byte // the OCI image config's bytes
	Size     int64  // of its layers, compressed
}

// Network gives instances addresses.
type Network interface {
	// Add makes the instance's network namespace at path and connects it.
	Add(ctx context.Context, id ident.AttemptID, path string) (netip.Addr, error)
	// Remove undoes Add, from any state that an interrupted one left.
	Remove(ctx context.Context, id ident.AttemptID, path string) error
	// Held returns the ids that hold an address.
	Held() ([]ident.AttemptID, error)
	// Gateway is this machine's address as the instances see it.
	Gateway() netip.Addr
}

// Attester serves evidence on a socket in the instance's directory.
type Attester interface {
	// Open listens in dir. configID is the launch binding that the platform
	// puts into the instance's evidence. Opening again replaces.
	Open(id ident.AttemptID, dir string, configID evidence.Data64) error
	// Close stops listening. An unknown id is no error.
	Close(id ident.AttemptID)
}

// Replica keeps a second copy of volume snapshots, away from this node.
type Replica interface {
	// Push returns when the snapshot is stored. Generations that nobody may ask
	// for any more may go.
	Push(ctx context.Context, s wire.Snapshot, size int64, open func() (io.ReadCloser, error)) error
	// Pull opens a stored snapshot; NotFound if there is none. One that the replica finds
	// damaged is refused before anything of it is read.
	Pull(ctx context.Context, s wire.Snapshot) (io.ReadCloser, error)
	// Stream is a Pull for a caller that checks what it reads itself, up to the end: the
	// snapshot goes over the network once, and damage may be found no earlier than there.
	Stream(ctx context.Context, s wire.Snapshot) (io.ReadCloser, error)
	// Drop removes a snapshot. An unknown one is no error.
	Drop(ctx context.Context, s wire.Snapshot) error
	// DropAll removes all of a volume. An unknown one is no error.
	DropAll(ctx context.Context, volume ident.Digest) error
}
