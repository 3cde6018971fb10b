package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/balance"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/node/cni"
	"cupel.dev/cupel/internal/operator/node/containerd"
	"cupel.dev/cupel/internal/operator/registry"
	"cupel.dev/cupel/internal/simtee"
)

// errStop is why a context ended when the apps shall stop too.
var errStop = errors.New("stop the apps too")

// parts is everything that one start makes, and the same for a down that stops what a dead
// cupeld left. Each field is set before the goroutines that use it are started; what
// changes later has a lock of its own.
type parts struct {
	layout
	log *slog.Logger

	// What carries instances.
	client   *registry.Client
	registry *registry.Server
	platform *simtee.Platform
	daemon   *containerd.Daemon
	runtime  *containerd.Runtime
	network  *cni.Network
	node     *node.Node
	cas      *casProcess

	// What takes requests.
	balancer  *balance.Balancer
	store     *managerdb.DB
	limits    manager.Limits
	listensAt struct{ manager, owners, instances string } // where they listen, as they say it

	// The disk of the state folder.
	room    room
	reserve *reserve
	low     *problem.Error // the disk had too little room at the start

	// What is told: to whoever starts this, and as events.
	service   []string           // what there is to say of the systemd unit
	dropped   []string           // flags of the last start that this one lacks
	damaged   findings           // what was found damaged in the state folder
	incidents *manager.Incidents // where all parts tell what happens to them
	troubles  manager.Troubles   // of what cupeld does for itself
	told      networkTold

	// How it ends.
	closers  []func() error
	ends     endTold // what keeps apps from their end, while they are stopped
	stopping atomic.Bool
}

// newParts is an installation of which nothing runs yet.
func newParts(l layout, log *slog.Logger) *parts {
	p := &parts{
		layout:    l,
		log:       log,
		incidents: &manager.Incidents{},
		reserve:   &reserve{dir: l.path(reserveFolder)},
	}
	p.troubles.Tell = p.incidents.Tell
	return p
}

// onClose has something done when all is let go of, before what was there before it.
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
	if err := l.mayBegin(ctx, o, log); err != nil {
		return err
	}

	if err := l.makeFolder(); err != nil {
		return err
	}
	if l, err = newLayout(o.State); err != nil { // now that links can be followed
		return err
	}

	lock := o.lock // held already, by who started this process
	if lock == nil {
		tell := func(line string) { log.InfoContext(ctx, line) }
		if lock, err = l.makeInTurn(ctx, time.Now().Add(downTimeout), tell); err != nil {
			return err
		}
	}
	defer lock.release()
	defer lock.end()
	defer context.AfterFunc(ctx, lock.end)()

	// What only who holds the lock can know: whether things of the folder run by another
	// name, and what the last start was given.
	if err := l.elsewhere(ctx); err != nil {
		return err
	}
	if err := l.keysMissing(o); err != nil {
		return err
	}

	p := newParts(l, log)
	p.ends.say = lock.say
	p.noteBefore(ctx, o)
	if p.room, err = l.roomOf(o.MinFree); err != nil {
		return err
	}
	if err := p.checkRoom(ctx); err != nil {
		return err
	}
	p.noteService(ctx, o)

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

// mayBegin refuses a start on a machine that lacks something, or on a folder that is not
// the one it was made for, and waits for the clock. Nothing is made yet.
func (l layout) mayBegin(ctx context.Context, o Options, log *slog.Logger) error {
	if err := l.check(); err != nil {
		return err
	}
	if o.Existing && !l.used() {
		return problem.New(problem.Unavailable, ruleStateMissing, "no installation is in %s, and the unit was made for one", l.dir).
			Want("the disk that holds it, mounted there").
			Fix("mount it, and the unit goes on by itself; to begin anew there, run 'cupel install-service' again")
	}
	if away := l.displaced(); away != nil {
		return away.problem()
	}

	if o.WaitClock > 0 { // by what lies in the folder that is used from here on
		return waitClock(ctx, l.lastSeen(), o.WaitClock, func(line string) { log.WarnContext(ctx, line) })
	}
	return nil
}

// noteBefore takes note of what this start differs in from the last one, and of what who
// started it has put aside already.
func (p *parts) noteBefore(ctx context.Context, o Options) {
	for _, line := range p.flagsDropped(o) {
		p.dropped = append(p.dropped, line)
		p.log.WarnContext(ctx, line)
	}
	for _, message := range o.repaired {
		p.repaired(ctx, message)
	}
	p.watchLog("cupeld's log", o.log)
}

// noteService takes note of what there is to say of the systemd unit, which it makes anew
// where an earlier release made it.
func (p *parts) noteService(ctx context.Context, o Options) {
	for _, line := range []string{p.renewService(ctx), p.serviceKeys(o)} {
		if line != "" {
			p.service = append(p.service, line)
			p.log.WarnContext(ctx, "systemd unit", "detail", line)
		}
	}
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

// startup is what one start goes by, beside the parts that it starts.
type startup struct {
	options Options
	ports   *ports              // what is listened at, now and last time
	api     net.Listener        // of the manager's API
	ready   func(Serving) error // is told when everything serves
}

// up makes the folder whole, starts everything in order, and returns when all of it has
// ended.
func (p *parts) up(ctx context.Context, o Options, ready func(Serving) error) error {
	// A folder that lost something that can't be made again is refused; what can be made
	// again is put aside.
	if err := errors.Join(p.whole(), p.mounted()); err != nil {
		return err
	}
	if err := p.repair(ctx); err != nil {
		return err
	}

	ports := loadPorts(p.path(portsFile))
	ports.complete(p.dir)
	p.casEnds() // also where it has other ports now
	if err := ports.check(ctx, o, p.casEnds); err != nil {
		return err
	}
	api, err := ports.listen(managerListener, o.ManagerListen)
	if err != nil {
		return err
	}
	p.onClose(func() error { return ignoreClosed(api.Close()) })

	if p.limits, err = managerLimits(o); err != nil {
		return err
	}
	if err := p.keepPath(); err != nil {
		p.log.WarnContext(ctx, "who comes by another name of the state folder won't know by which it runs", "error", err)
	}
	if err := p.keepGrace(p.limits.Grace); err != nil { // a full disk is no reason to serve nothing
		p.log.WarnContext(ctx, "cupel down won't know --grace if this process dies", "error", err)
	}

	c, err := p.carry(ctx, o, ports)
	if err != nil {
		return err
	}
	defer c.end()
	err = p.takeRequests(ctx, c, startup{options: o, ports: ports, api: api, ready: ready})

	// Nothing takes requests any more. The carriers still run, so that apps which stop
	// can store their volumes and report.
	if errors.Is(context.Cause(ctx), errStop) && c.ctx.Err() == nil && p.store != nil {
		err = errors.Join(err, p.stopApps(c.base))
	}
	c.end()
	return errors.Join(err, c.parts.Wait())
}
