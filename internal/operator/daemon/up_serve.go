package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/balance"
	"cupel.dev/cupel/internal/operator/daemon/runtimecmd"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/version"
)

// startCAS starts the CAS under its own user, who owns nothing but its folder.
func (p *parts) startCAS(ctx context.Context, o Options, ports *ports) (*running, error) {
	uid, err := p.casUser()
	if err != nil {
		return nil, err
	}

	c := p.cas
	c.uid = uid
	c.dir = p.path("cas")
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the CAS's folder: %w", err)
	}
	if err := errors.Join(os.Chown(c.dir, uid, uid), os.Chmod(c.dir, 0o700)); err != nil {
		return nil, fmt.Errorf("give the CAS its folder: %w", err)
	}
	if c.binary, err = besides(o.CAS, "cupel-cas"); err != nil {
		return nil, err
	}

	logs, _ := openRotating(p.path("log", "cas.log"), maxLog) // watchLog says where it can't be
	p.watchLog("the CAS's log", logs)
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

	c.owners = ports.prefer(ownersListener, o.CASOwners)
	c.instances = ports.prefer(instancesListener, o.CASInstances)
	r, err := c.start(ctx)
	if err != nil {
		return nil, err
	}

	ports.remember(ownersListener, r.ready.Owners)
	ports.remember(instancesListener, r.ready.Instances)
	return r, nil
}

// serve opens balancer and manager, and tells that everything is there.
func (p *parts) serve(ctx context.Context, g *errgroup.Group, s startup, cas casReady) (err error) {
	if err := p.openBalancer(ctx, s.options); err != nil {
		return err
	}
	p.onClose(p.balancer.Close)
	if p.store, err = managerdb.Open(ctx, p.path("manager.db")); err != nil {
		return err
	}
	p.onClose(p.store.Close)
	if err := errors.Join(p.remember(), p.reserve.fill()); err != nil {
		return err
	}

	now := time.Now()
	cert, err := p.ownPair("manager", now)
	if err != nil {
		return err
	}
	public, err := openPublicCert(s.options.ManagerCert, s.options.ManagerKey, p.log)
	if err != nil {
		return err
	}
	operator, err := p.ownPair("operator", now)
	if err != nil {
		return err
	}

	cat := &catalog{
		registry: p.client,
		launcher: p.node.LauncherDigest(),
		root:     p.simulation(),
		locks:    runtimecmd.LocksDir(p.dir),
	}
	m, err := p.manager(ctx, s, cas, cat, operator)
	if err != nil {
		return err
	}

	taken := m.TakenPorts() // before the balancer has them

	e := p.endpoint(s.api, cas, cert)
	server := &manager.API{
		Manager:  m,
		Template: cat.template,
		Sources:  p.registry.Handler(),
		Public:   public.choose,
		Log:      p.log,
		Info:     func() managerapi.Info { return p.info(e) },
	}

	g.Go(named("tidying", func() error { return p.tidy(ctx) }))
	g.Go(named("manager", func() error { return m.Run(ctx) }))
	g.Go(named("API", func() error { return server.Serve(ctx, s.api, cert) }))

	if err := p.writeServing(ctx, s, e); err != nil {
		return err
	}
	p.onClose(func() error { return os.Remove(p.path(client.EndpointFile)) })

	g.Go(named("network", func() error { return p.tendNetwork(ctx, s.options, cas, e) }))
	if err := p.node.DropLaunchers(m.Launchers()); err != nil {
		p.log.WarnContext(ctx, "old launchers not removed", "error", err)
	}

	failed, unchecked := p.checkNetwork(ctx, s.options, cas)
	return s.ready(Serving{
		Endpoint:     e,
		Parts:        p.list(e),
		Network:      failed,
		Unchecked:    unchecked,
		NeedOwner:    needOwner(m.NeedOwner()),
		TakenPorts:   takenPorts(taken),
		OldLaunchers: oldLaunchers(m.OldLaunchers()),
		DiskFull:     p.low,
		Damaged:      p.damaged.all(),
		Service:      strings.Join(p.service, "; "),
		Dropped:      p.dropped,
	})
}

// simulation names the root under which this machine's hardware is simulated.
func (p *parts) simulation() ident.Digest { return ident.Sum(p.platform.Root().Raw) }

// endpoint says where everything listens: what programs of this machine use, and beside it,
// in listensAt, what is open to others.
func (p *parts) endpoint(api net.Listener, cas casReady, cert tls.Certificate) managerapi.Endpoint {
	p.listensAt.manager = api.Addr().String()
	p.listensAt.owners = cas.Owners
	p.listensAt.instances = cas.Instances

	root := p.simulation()
	return managerapi.Endpoint{
		Version:    managerapi.Version,
		Address:    local(api.Addr().String()),
		CertSHA256: ident.Sum(cert.Certificate[0]),
		CAS: managerapi.CAS{
			Owners:    local(cas.Owners),
			Instances: local(cas.Instances),
			Identity:  cas.Identity,
		},
		Registry:   p.client.Addr(),
		PID:        os.Getpid(),
		Outside:    outside(),
		Simulation: &root,
	}
}

// info is what the manager's API says of this installation.
func (p *parts) info(e managerapi.Endpoint) managerapi.Info {
	return managerapi.Info{
		Release:    version.Release(),
		Backend:    "nodes",
		CAS:        e.CAS,
		Registry:   e.Registry,
		Simulation: e.Simulation,
		Parts:      p.list(e),
	}
}

// writeServing writes down what this start was given and where everything listens: for the
// next start, and for the programs of this machine.
func (p *parts) writeServing(ctx context.Context, s startup, e managerapi.Endpoint) error {
	if err := p.keepGiven(ctx, s.options, s.ports); err != nil {
		return err
	}
	s.ports.last[firstPortKept] = strconv.Itoa(int(s.options.FirstPort))
	if err := s.ports.save(); err != nil { // it says that all the rest was written
		return err
	}
	return p.writeEndpoint(e)
}

// openBalancer opens what leads users to instances, and takes over what leads them now.
func (p *parts) openBalancer(ctx context.Context, o Options) (err error) {
	cfg := balance.Config{
		Table:  p.table(),
		Subnet: p.network.Subnet(),
		Log:    p.log,
		Tell:   p.incidents.Tell,
	}
	if err := cfg.SetLimits(o.Balancer); err != nil {
		return err
	}
	p.balancer, err = balance.Open(ctx, cfg)
	return err
}

// manager makes the manager of this start, for whose grants the operator's key speaks.
func (p *parts) manager(ctx context.Context, s startup, cas casReady, cat manager.Catalog, operator tls.Certificate) (*manager.Manager, error) {
	keys, err := keyLimits(s.options)
	if err != nil {
		return nil, err
	}
	memory, err := machineMemory(s.options)
	if err != nil {
		return nil, err
	}

	return manager.New(ctx, manager.Config{
		Store:    roomyStore{p.store, p.reserve},
		Backend:  p.node,
		Balancer: p.balancer,
		Catalog:  cat,
		Grants: &client.Holder{
			Certificate: operator,
			Now:         time.Now,
			Dial:        asInstances(p.network.Gateway().String()),
		},
		CAS:       managerapi.CASRef{Instances: local(cas.Instances), Identity: cas.Identity},
		Launcher:  p.node.LauncherDigest(),
		Operator:  ident.HashCertKey(operator.Leaf),
		Simulated: true,

		Keys:      keys,
		Limits:    &p.limits,
		Memory:    memory,
		Room:      p.room.check,
		FirstPort: s.options.FirstPort,
		PortFree:  s.ports.free(),

		Incidents: p.incidents,
		InTheWay:  p.told.inTheWay,
		Now:       time.Now,
		Log:       p.log,
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
	p.stopping.Store(true)

	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()

	m, err := manager.New(ctx, manager.Config{
		Store:    p.store,
		Backend:  p.node,
		Balancer: p.balancer,
		Limits:   &p.limits,
		Now:      time.Now,
		Log:      p.log,
	})
	if err != nil {
		return err
	}

	ended := p.tellEnd(ctx, p.node.List)
	defer ended()
	err = m.Suspend(ctx)
	return errors.Join(err, p.node.RemoveAll(ctx), p.balancer.Remove(ctx), p.network.Close(), p.daemon.Stop(ctx))
}
