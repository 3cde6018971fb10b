package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"cupel.dev/cupel/client"
	wire "cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/operator/balance"
	"cupel.dev/cupel/internal/operator/daemon/runtimecmd"
	"cupel.dev/cupel/internal/operator/las"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/operator/node/cni"
	"cupel.dev/cupel/internal/operator/node/containerd"
	"cupel.dev/cupel/internal/operator/registry"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/version"
)

// Options are the flags of `cupeld up`.
type Options struct {
	State           string
	ManagerListen   string
	RegistryListen  string
	CASOwners       string
	CASInstances    string
	FirstPort       uint16
	AllowUnattested bool
	Launcher        string // default: cupel-init beside this program
	CAS             string // default: cupel-cas beside this program
	KeepAlive       time.Duration
	CASQuota        string        // as the CAS's flag --quota takes it
	CASConnections  int           // 0: the CAS decides
	AppQuota        string        // as manager.KeyLimits takes it
	LowPorts        string        // as manager.ParsePorts takes it
	Drain           time.Duration // of connections to instances that are replaced
	Subnet          string        // of the instances, as cni.ParseSubnet takes it; empty: a free one
	Starts          int           // instances that start at once; 0: by the cores
	Overcommit      string        // where all apps may use more memory than there is: warn (also if empty) or refuse
	Balancer        string        // other limits, as balance.Config.SetLimits takes them
	Grace           time.Duration // from SIGTERM to SIGKILL
	DeployKeys      string        // file with the keys that may deploy; empty: all may
	MinFree         string        // of the state folder's disk, before anything new is taken; as wire.ParseMemory takes it
	ManagerCert     string        // file with a certificate for the manager's public name; empty: none
	ManagerKey      string        // file with its key
	CheckTo         []string      // of Check: HOST:PORT that an instance shall reach too
	Existing        bool          // refuse a state folder without an installation
	OwnGroup        bool          // move this process to the daemons' control group
	Force           bool          // of Down: also where apps can't store what they wrote

	lock         *stateLock    // held already by who started this process; nil: it isn't
	checkTimeout time.Duration // of the network at the start, and every now and then; 0: the default

	tell func(string) // hears how long work goes on; nil: nobody does
}

// errStop is why a context ended when the apps shall stop too.
var errStop = errors.New("stop the apps too")

// parts is everything that runs, in the order in which it was started.
type parts struct {
	layout
	log      *slog.Logger
	registry *registry.Server
	platform *simtee.Platform
	daemon   *containerd.Daemon
	runtime  *containerd.Runtime
	network  *cni.Network
	node     *node.Node
	balancer *balance.Balancer
	store    *managerdb.DB
	cas      *casProcess
	client   *registry.Client
	room     room
	reserve  *reserve
	low      *problem.Error // the disk had too little room at the start
	service  string         // what there is to say of the systemd unit
	// incidents is where all of them tell what happens to them.
	incidents *manager.Incidents
	troubles  manager.Troubles // of what cupeld does for itself
	told      networkTold
	limits    manager.Limits
	closers   []func() error

	open struct{ manager, owners, instances string } // where they listen, as they say it
}

// newParts is an installation of which nothing runs yet.
func newParts(l layout, log *slog.Logger) *parts {
	p := &parts{layout: l, log: log, incidents: &manager.Incidents{}, reserve: &reserve{dir: l.path("reserve")}}
	p.troubles.Tell = p.incidents.Tell
	return p
}

func (p *parts) onClose(f func() error) { p.closers = append(p.closers, f) }

// close lets go of everything in reverse order. Containers and what carries
// their traffic stay.
func (p *parts) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	p.closers = nil
	return errors.Join(errs...)
}

// Up runs everything until ctx ends. With the cause errStop the apps stop too;
// otherwise they and containerd go on, and the next Up adopts them. When
// everything serves, ready is told.
func Up(ctx context.Context, o Options, log *slog.Logger, ready func(Serving) error) (err error) {
	if err := checkOptions(o); err != nil { // before anything is touched
		return err
	}
	l, err := newLayout(o.State)
	if err != nil {
		return err
	}
	if err := l.check(); err != nil {
		return err
	}
	if o.Existing && !l.used() {
		return problem.New(problem.Unavailable, "state_missing", "no installation is in %s, and the unit was made for one", l.dir).
			Want("the disk that holds it, mounted there").
			Fix("mount it, and the unit goes on by itself; to begin anew there, run 'cupel install-service' again")
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return problem.New(problem.Invalid, "state_folder", "%w", err).Fix("name another folder with --state")
	}
	if l, err = newLayout(o.State); err != nil { // now that links can be followed
		return err
	}
	lock := o.lock // held already, by who started this process
	if lock == nil {
		if lock, err = l.make(); err != nil {
			return err
		}
	}
	defer lock.release()
	p := newParts(l, log)
	if p.room, err = l.roomOf(o.MinFree); err != nil {
		return err
	}
	if err := p.enter(ctx); err != nil {
		return err
	}
	if p.service = l.renewService(ctx); p.service != "" {
		log.WarnContext(ctx, "systemd unit", "detail", p.service)
	}
	if o.OwnGroup {
		if err := l.joinGroup(os.Getpid()); err != nil {
			return err
		}
	}
	defer l.leaveGroup(o.OwnGroup)
	serving := false
	defer func() {
		if err != nil && !serving {
			err = errors.Join(err, p.undo(context.WithoutCancel(ctx)))
		}
		err = l.explain(errors.Join(err, p.close()))
	}()
	return p.up(ctx, o, func(s Serving) error {
		serving = true
		return ready(s)
	})
}

// undo stops what a failed start began, unless instances run on it.
func (p *parts) undo(ctx context.Context) error {
	if p.node != nil {
		list, err := p.node.List(ctx)
		if err != nil || slices.ContainsFunc(list, func(s manager.InstanceStatus) bool { return s.State != manager.StateExited }) {
			return err
		}
	} else if p.runtime != nil {
		list, err := p.runtime.List(ctx)
		if err != nil || len(list) > 0 {
			return err
		}
	}
	var errs []error
	if p.balancer != nil {
		errs = append(errs, p.balancer.Remove(ctx))
	}
	if p.network != nil {
		errs = append(errs, p.network.Close())
	}
	if p.daemon != nil {
		errs = append(errs, p.daemon.Stop(ctx))
	}
	return errors.Join(errs...)
}

func (p *parts) up(ctx context.Context, o Options, ready func(Serving) error) error {
	if err := p.whole(); err != nil {
		return err
	}
	p.repair(ctx)
	ports := loadPorts(p.path("ports.json"))
	ports.complete(p.dir)
	p.casEnds() // also where it has other ports now
	if err := ports.check(ctx, o, p.casEnds); err != nil {
		return err
	}
	api, err := ports.listen("manager", o.ManagerListen)
	if err != nil {
		return err
	}
	p.onClose(func() error { return ignoreClosed(api.Close()) })
	if p.limits, err = managerLimits(o); err != nil {
		return err
	}
	if err := p.keepGrace(p.limits.Grace); err != nil { // a full disk is no reason to serve nothing
		p.log.WarnContext(ctx, "cupel down won't know --grace if this process dies", "error", err)
	}
	c, err := p.carry(ctx, o, ports)
	if err != nil {
		return err
	}
	defer c.end()

	err = p.takeRequests(ctx, c, o, api, ports, ready)
	if errors.Is(context.Cause(ctx), errStop) && c.ctx.Err() == nil && p.store != nil {
		err = errors.Join(err, p.stopApps(c.base))
	}
	c.end()
	return errors.Join(err, c.parts.Wait())
}

// carriers are the parts that carry instances: registry, containerd, node, CAS. They
// outlive what takes requests: apps that are stopped still commit and report
// through them.
type carriers struct {
	parts *errgroup.Group
	ctx   context.Context //nolint:containedctx // ends with the first part that fails
	base  context.Context //nolint:containedctx // ends with end alone
	end   func()
}

// carry starts them, but for the CAS.
func (p *parts) carry(ctx context.Context, o Options, ports *ports) (carriers, error) {
	var c carriers
	store, err := ports.listen("registry", o.RegistryListen)
	if err != nil {
		return c, err
	}
	p.onClose(func() error { return ignoreClosed(store.Close()) })
	if err := p.openNode(ctx, o, store.Addr().String()); err != nil {
		return c, err
	}
	if p.registry, err = registry.Open(ctx, p.path("registry"), p.log); err != nil {
		return c, err
	}
	p.onClose(p.registry.Close)

	c.base, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.parts, c.ctx = errgroup.WithContext(c.base)
	c.parts.Go(named("registry", func() error { return p.registry.Serve(c.ctx, store) }))
	c.parts.Go(named("registry's garbage", func() error { return p.registry.CollectGarbage(c.ctx) }))
	c.parts.Go(named("containerd", func() error { return p.daemon.Run(c.ctx) }))
	c.parts.Go(named("node", func() error { return p.node.Run(c.ctx) }))
	return c, nil
}

// carryCAS starts the CAS too, and tells instances where it is.
func (p *parts) carryCAS(ctx context.Context, c carriers, o Options, ports *ports) (casReady, error) {
	cas, err := p.startCAS(ctx, o, ports)
	if err != nil {
		return casReady{}, err
	}
	c.parts.Go(named("CAS", func() error { return p.cas.run(c.ctx, cas) }))
	p.node.SetCASAddr(net.JoinHostPort(p.network.Gateway().String(), portOf(cas.ready.Instances)))
	return cas.ready, nil
}

// takeRequests starts the CAS, and then manager and API until ctx or one of the
// carriers ends.
func (p *parts) takeRequests(ctx context.Context, c carriers, o Options, api net.Listener, ports *ports, ready func(Serving) error) error {
	cas, err := p.carryCAS(ctx, c, o, ports)
	if err != nil {
		return err
	}
	front, end := context.WithCancel(ctx)
	defer end()
	defer context.AfterFunc(c.ctx, end)()
	g, run := errgroup.WithContext(front)
	if err := p.serve(run, g, o, cas, api, ports, ready); err != nil {
		end()
		return errors.Join(err, g.Wait())
	}
	return g.Wait()
}

func named(part string, f func() error) func() error {
	return func() error {
		if err := f(); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", part, err)
		}
		return nil
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// openNode opens what instances run on, and adopts those that do.
func (p *parts) openNode(ctx context.Context, o Options, registryAddr string) (err error) {
	p.client = registry.NewClient(registryAddr)
	if p.platform, err = simtee.Open(p.path("simtee"), time.Now); err != nil {
		return err
	}
	if err := writeOnce(p.path("simulation-root.pem"), p.platform.RootPEM()); err != nil {
		return err
	}
	if p.daemon, err = containerd.Open(ctx, containerd.DaemonConfig{
		Dir: p.path("containerd"), ID: p.id, Logger: p.log, Started: p.joinGroup, Tell: p.hung,
		Asked: func(err error) { p.troubles.Note("ask containerd", "", err) },
	}); err != nil {
		return err
	}
	if err := p.adoptProcesses(); err != nil {
		return err
	}
	p.runtime, err = containerd.New(containerd.Config{Daemon: p.daemon, Namespace: p.namespace(), RuncRoot: p.path("runc"), Logger: p.log})
	if err != nil {
		return err
	}
	p.onClose(p.runtime.Close)
	if err := p.runtime.EndLeases(ctx); err != nil { // they hold disk space, and nobody up
		p.log.WarnContext(ctx, "what an earlier process had containerd keep is kept longer", "error", err)
	}
	if p.network, err = p.openNetwork(p.path("cni"), o); err != nil {
		return err
	}
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		return err
	}
	launcher, err := besides(o.Launcher, "cupel-init")
	if err != nil {
		return err
	}
	writer, err := p.logWriter(ctx)
	if err != nil {
		return err
	}
	attester := las.New(las.Config{
		Inspector: p.runtime, Platform: p.platform, Cgroups: groups, Listen: node.ListenUnix, Logger: p.log, Now: time.Now,
	})
	p.node, err = node.New(node.Config{
		State: p.path("node"), Cgroup: p.cgroup(), Launcher: launcher, LogWriter: writer,
		Runtime: p.runtime, Monitor: p.runtime, Images: p.runtime, Network: p.network, Attester: attester,
		Replica: p.client, Cgroups: groups, Tell: p.incidents.Tell, Logger: p.log, Now: time.Now,
	})
	if err != nil {
		return err
	}
	p.cas = &casProcess{attester: attester, log: p.log, started: p.joinGroup, tell: p.incidents.Tell, troubles: &p.troubles}
	return p.node.Adopt(ctx)
}

// hung tells of what hung beside this process, and goes on.
func (p *parts) hung(reason, message string) {
	p.incidents.Tell(manager.Incident{Warning: true, Reason: reason, Message: message})
}

// writeOnce writes a file that doesn't have that content yet: a full disk is no reason
// not to stop in order what runs on it.
func writeOnce(path string, content []byte) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, content) {
		return nil
	}
	return atomicfile.Write(path, content, 0o644)
}

// logWriter is the program that writes instances' logs. Where it was forgotten at an
// upgrade, cupeld does the same, at six times the memory.
func (p *parts) logWriter(ctx context.Context) (string, error) {
	writer, err := besides("", "cupel-log")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(writer); err == nil {
		return writer, nil
	}
	p.log.WarnContext(ctx, "no cupel-log beside cupeld: each instance takes 5 MB more, put it there", "path", writer)
	return besides("", "cupeld")
}

// besides returns the path that was given, or that of a program beside ours.
func besides(given, name string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// startCAS starts the CAS under its own user, who owns nothing but its folder.
func (p *parts) startCAS(ctx context.Context, o Options, ports *ports) (*running, error) {
	uid, err := p.casUser()
	if err != nil {
		return nil, err
	}
	c := p.cas
	c.uid, c.dir = uid, p.path("cas")
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the CAS's folder: %w", err)
	}
	if err := errors.Join(os.Chown(c.dir, uid, uid), os.Chmod(c.dir, 0o700)); err != nil {
		return nil, fmt.Errorf("give the CAS its folder: %w", err)
	}
	if c.binary, err = besides(o.CAS, "cupel-cas"); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.path("log"), 0o755); err != nil {
		return nil, fmt.Errorf("make the log folder: %w", err)
	}
	logs, err := openRotating(p.path("log", "cas.log"), maxLog)
	if err != nil {
		return nil, err
	}
	p.onClose(logs.Close)
	c.logs = logs
	c.args = []string{"--simulation-root", p.path("simulation-root.pem")}
	if o.AllowUnattested {
		c.args = append(c.args, "--allow-unattested")
	}
	if o.KeepAlive > 0 {
		c.args = append(c.args, "--keep-alive", o.KeepAlive.String())
	}
	if o.CASQuota != "" {
		c.args = append(c.args, "--quota", o.CASQuota)
	}
	if o.CASConnections > 0 {
		c.args = append(c.args, "--max-connections", strconv.Itoa(o.CASConnections))
	}
	c.owners, c.instances = ports.prefer("cas-owners", o.CASOwners), ports.prefer("cas-instances", o.CASInstances)
	r, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	ports.remember("cas-owners", r.ready.Owners)
	ports.remember("cas-instances", r.ready.Instances)
	return r, nil
}

// serve opens balancer and manager, and tells that everything is there.
func (p *parts) serve(ctx context.Context, g *errgroup.Group, o Options, cas casReady, api net.Listener, ports *ports,
	ready func(Serving) error,
) (err error) {
	if err := p.openBalancer(ctx, o); err != nil {
		return err
	}
	p.onClose(p.balancer.Close)
	if p.store, err = managerdb.Open(ctx, p.path("manager.db")); err != nil {
		return err
	}
	p.onClose(p.store.Close)
	if err := p.reserve.fill(); err != nil {
		return err
	}
	now := time.Now()
	cert, err := p.ownPair("manager", now)
	if err != nil {
		return err
	}
	public, err := openPublicCert(o.ManagerCert, o.ManagerKey, p.log)
	if err != nil {
		return err
	}
	operator, err := p.ownPair("operator", now)
	if err != nil {
		return err
	}
	root := ident.Sum(p.platform.Root().Raw)
	cat := &catalog{
		registry: p.client,
		launcher: p.node.LauncherDigest(),
		root:     root,
		locks:    runtimecmd.LocksDir(p.dir),
	}
	m, err := p.manager(ctx, o, cas, cat, roomyStore{p.store, p.reserve}, operator, ports.free())
	if err != nil {
		return err
	}
	e := wire.Endpoint{
		Version: wire.Version, Address: local(api.Addr().String()), CertSHA256: ident.Sum(cert.Certificate[0]),
		CAS:      wire.CAS{Owners: local(cas.Owners), Instances: local(cas.Instances), Identity: cas.Identity},
		Registry: p.client.Addr(), PID: os.Getpid(), Outside: outside(), Simulation: &root,
	}
	p.open.manager, p.open.owners, p.open.instances = api.Addr().String(), cas.Owners, cas.Instances
	server := &manager.API{Manager: m, Template: cat.template, Sources: p.registry.Handler(), Public: public.choose, Log: p.log, Info: func() wire.Info {
		return wire.Info{Release: version.Release(), Backend: "nodes", CAS: e.CAS, Registry: e.Registry, Simulation: &root, Parts: p.list(e)}
	}}
	g.Go(named("tidying", func() error { return p.tidy(ctx) }))
	g.Go(named("manager", func() error { return m.Run(ctx) }))
	g.Go(named("API", func() error { return server.Serve(ctx, api, cert) }))
	ports.last[firstPortKept] = strconv.Itoa(int(o.FirstPort))
	if err := ports.save(); err != nil {
		return err
	}
	if err := p.writeEndpoint(e); err != nil {
		return err
	}
	p.onClose(func() error { return os.Remove(p.path(wire.EndpointFile)) })
	g.Go(named("network", func() error { return p.tendNetwork(ctx, o, cas, e) }))
	if err := p.node.DropLaunchers(m.Launchers()); err != nil {
		p.log.WarnContext(ctx, "old launchers not removed", "error", err)
	}
	failed, unchecked := p.checkNetwork(ctx, o, cas)
	return ready(Serving{
		Endpoint:     e,
		Parts:        p.list(e),
		Network:      failed,
		Unchecked:    unchecked,
		NeedOwner:    needOwner(m.NeedOwner()),
		OldLaunchers: oldLaunchers(m.OldLaunchers()),
		DiskFull:     p.low,
		Service:      p.service,
	})
}

func (p *parts) openBalancer(ctx context.Context, o Options) (err error) {
	cfg := balance.Config{Table: p.table(), Subnet: p.network.Subnet(), Log: p.log, Tell: p.incidents.Tell}
	if err := cfg.SetLimits(o.Balancer); err != nil {
		return err
	}
	p.balancer, err = balance.Open(ctx, cfg)
	return err
}

func (p *parts) manager(ctx context.Context, o Options, cas casReady, cat manager.Catalog, store manager.Store, operator tls.Certificate,
	portFree func(uint16) error,
) (*manager.Manager, error) {
	keys, err := keyLimits(o)
	if err != nil {
		return nil, err
	}
	memory, err := machineMemory(o)
	if err != nil {
		return nil, err
	}
	return manager.New(ctx, manager.Config{
		Keys: keys, Limits: &p.limits, Memory: memory, Incidents: p.incidents,
		Store: store, Backend: p.node, Balancer: p.balancer, Catalog: cat,
		Grants:   &client.Holder{Certificate: operator, Now: time.Now, Dial: asInstances(p.network.Gateway().String())},
		CAS:      wire.CASRef{Instances: local(cas.Instances), Identity: cas.Identity},
		Launcher: p.node.LauncherDigest(),
		PortFree: portFree, Room: p.room.check, FirstPort: o.FirstPort, InTheWay: p.told.inTheWay, Operator: ident.HashCertKey(operator.Leaf), Simulated: true, Now: time.Now, Log: p.log,
	})
}

// asInstances dials what instances call this machine by its address for them: an
// owner names a CAS as instances reach it.
func asInstances(gateway string) func(context.Context, string, string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if host, port, err := net.SplitHostPort(addr); err == nil && host == node.HostName {
			addr = net.JoinHostPort(gateway, port)
		}
		return d.DialContext(ctx, network, addr)
	}
}

// stopApps ends all instances and what carries them; what is desired stays.
func (p *parts) stopApps(ctx context.Context) error {
	p.log.InfoContext(ctx, "stopping apps")
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	m, err := manager.New(ctx, manager.Config{Store: p.store, Backend: p.node, Balancer: p.balancer, Limits: &p.limits, Now: time.Now, Log: p.log})
	if err != nil {
		return err
	}
	err = m.Suspend(ctx)
	return errors.Join(err, p.node.RemoveAll(ctx), p.balancer.Remove(ctx), p.network.Close(), p.daemon.Stop(ctx))
}
