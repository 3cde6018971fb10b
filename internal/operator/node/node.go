package node

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/operator/node/logfile"
	"cupel.dev/cupel/internal/trusted/launch"
)

// Config is what a node is made of. All fields are needed but those that say
// otherwise.
type Config struct {
	State     string      // absolute; this node's folders are made below it
	Cgroup    cgroup.Path // parent of the instances' control groups, e.g. /cupel-0123abcd
	Launcher  string      // path of the launcher's binary; copied
	LogWriter string      // absolute path of cupel-log: the program that runs logfile.Main
	CASAddr   string      // HOST:PORT of the CAS as instances reach it, for specs that name none
	Runtime   Runtime
	Monitor   Monitor
	Images    Images
	Network   Network
	Attester  Attester
	Replica   Replica // optional
	Cgroups   *cgroup.Tree
	Limits    logfile.Limits         // zero: the default
	Tell      func(manager.Incident) // optional: is told what happens to the machine's parts
	Logger    *slog.Logger
	Now       func() time.Time
}

// Node is the manager's Backend on this machine.
type Node struct {
	cfg      Config
	launcher string // the copy that instances run
	digest   ident.Digest
	journal  journal
	volumes  *volumeStore
	tending  sync.Mutex // one replacement of a log writer at a time
	// letting lets one address be given back at a time: after a crash of the machine they all
	// are. It is taken before an op lock.
	letting sync.Mutex

	mu        sync.Mutex
	instances map[ident.AttemptID]*instance
	watchers  map[chan manager.InstanceEvent]*backlog
	casAddr   string
	troubles  manager.Troubles
	// nobodyStores says that an end is waited for no longer than its grace.
	nobodyStores bool
	// commitLimit is how long a launcher may store volumes beyond its grace; zero:
	// CommitLimit.
	commitLimit time.Duration
}

var _ manager.Backend = (*Node)(nil)

// New makes the node's folders and copies the launcher. It starts nothing;
// call Adopt before anything else and Run to keep instances watched.
func New(cfg Config) (*Node, error) {
	if !filepath.IsAbs(cfg.State) {
		return nil, fmt.Errorf("node state folder %q: want an absolute path", cfg.State)
	}
	if cfg.Limits == (logfile.Limits{}) {
		cfg.Limits = logfile.DefaultLimits()
	}

	n := &Node{
		cfg:       cfg,
		casAddr:   cfg.CASAddr,
		instances: map[ident.AttemptID]*instance{},
		watchers:  map[chan manager.InstanceEvent]*backlog{},
	}
	n.troubles.Tell = func(in manager.Incident) { n.tell(context.Background(), in) }
	// No call of these parts is without a deadline.
	n.cfg.Runtime = boundedRuntime{cfg.Runtime, n}
	n.cfg.Images = newBoundedImages(cfg.Images, n)
	n.cfg.Network = boundedNetwork{cfg.Network, n}

	for _, dir := range []string{"instances", "run", "etc", "logs", "netns", "volumes", "launcher"} {
		if err := os.MkdirAll(n.dir(dir), 0o700); err != nil {
			return nil, fmt.Errorf("make node folder: %w", err)
		}
	}

	n.journal = journal{n.dir("instances")}
	n.volumes = &volumeStore{
		dir:     n.dir("volumes"),
		replica: cfg.Replica,
		logger:  cfg.Logger,
		locks:   map[ident.Digest]*sync.Mutex{},
		tell:    n.tell,
		note:    func(ctx context.Context, what string, err error) { n.note(ctx, what, "", err) },
	}
	n.note(context.Background(), "clean up what broken-off stores of volumes left", "", n.volumes.sweep())

	return n, n.keepLauncher()
}

// dir is a path below the node's folder.
func (n *Node) dir(parts ...string) string {
	return filepath.Join(append([]string{n.cfg.State}, parts...)...)
}

// SetCASAddr changes the address that instances started from now on are given.
func (n *Node) SetCASAddr(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.casAddr = addr
}

// EnsureImage implements manager.Backend.
func (n *Node) EnsureImage(ctx context.Context, ref ident.ImageRef) (manager.ImageInfo, error) {
	img, err := n.cfg.Images.Ensure(ctx, ref)
	if err != nil {
		return manager.ImageInfo{}, n.explain(err)
	}

	// An image that can't be launched is refused here, not at the first Start.
	if _, err := launch.ParseImageConfig(img.Config); err != nil {
		return manager.ImageInfo{}, err
	}

	return manager.ImageInfo{
		Ref:    ref,
		Digest: img.Manifest,
		Config: ident.Sum(img.Config),
		Size:   img.Size,
	}, nil
}

// List implements manager.Backend.
func (n *Node) List(context.Context) ([]manager.InstanceStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()

	out := make([]manager.InstanceStatus, 0, len(n.instances))
	for _, i := range n.instances {
		if i.rec.Made {
			out = append(out, i.status())
		}
	}

	slices.SortFunc(out, func(a, b manager.InstanceStatus) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Logs implements manager.Backend.
func (n *Node) Logs(ctx context.Context, id ident.AttemptID, opts manager.LogOptions) (io.ReadCloser, error) {
	i := n.find(id)
	if i == nil {
		return nil, unknown(id)
	}

	ended := func() bool {
		select {
		case <-i.silent:
			return true
		default:
			return false
		}
	}
	return logfile.Open(ctx, n.dir("logs", string(id)), logfile.Options{
		Follow: opts.Follow,
		Since:  opts.Since,
		Tail:   opts.Tail,
		Ended:  ended,
	}), nil
}

func (n *Node) find(id ident.AttemptID) *instance {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.instances[id]
}

func unknown(id ident.AttemptID) error {
	return problem.New(problem.NotFound, problem.RuleInstanceUnknown, "no instance %q on this node", id)
}

var validID = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
