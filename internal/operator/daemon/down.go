package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/balance"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/operator/netcheck"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/operator/node/sysctl"
	"cupel.dev/cupel/internal/trusted/diskerror"
)

// Whoever waits for others waits longer than they may take.
const (
	// stopTimeout is how long all apps together may take to end: the longest grace,
	// what their launchers get beyond it, and the removal of what is left of them.
	stopTimeout = maxGrace + node.CommitLimit + 3*time.Minute
	// downTimeout is how long a running cupeld may take to stop everything.
	downTimeout = stopTimeout + time.Minute
	// unitTimeout is how long systemd waits for cupel down.
	unitTimeout = downTimeout + time.Minute
)

// Stopped is what a Down found.
type Stopped struct {
	State string   `json:"stopped"`         // the folder; empty: there is none, or it isn't Cupel's
	Ended []string `json:"ended,omitempty"` // what still ran of one that is gone
}

// Down stops everything of a state folder: apps, daemons, network. What is
// desired stays, so that the next Up starts the apps again. It works as well if
// cupeld is dead or never came up, and ends what runs of a folder that is gone.
func Down(ctx context.Context, o Options, log *slog.Logger) (s Stopped, err error) {
	began := time.Now()
	l, lock, err := takeOver(ctx, o, workDown, log)
	defer func() { err = l.explain(err) }()
	if err != nil {
		return s, err
	}
	if lock != nil {
		defer lock.release()
	}

	away := l.displaced()
	if away != nil && len(away.apps) > 0 {
		if !o.Force {
			return s, away.problem()
		}
		if lock != nil || l.gone() { // else it was said
			log.WarnContext(ctx, endedAsItIs, "why", away.Error())
		}
	}

	if away != nil || lock == nil && l.gone() {
		s.Ended, err = l.endGone(ctx, o.Force)
		return s, err
	}

	if l.used() {
		s.State = o.State
	}

	if lock == nil { // its disk fails, or it is another folder
		return Stopped{State: o.State}, l.sweep(ctx)
	}
	return s, l.down(ctx, o, began, log)
}

// endedAsItIs warns of apps that could store their volumes only into another folder.
const endedAsItIs = "everything is ended as it is, and what apps wrote since they stored their volumes last is lost"

// down is Down on a folder that nobody else works on any more. The command was given when it
// began: what apps did not store since then is told.
func (l layout) down(ctx context.Context, o Options, began time.Time, log *slog.Logger) error {
	lost := l.managerLost(ctx) // before anything makes a database anew

	if l.containerdRuns() || l.cgroupExists() {
		strict := !o.Force && l.writes(ctx)
		err := stopOrphans(ctx, l, o, strict, log)
		if unready, ok := errors.AsType[*unreadyError](err); ok && strict {
			return problem.New(problem.Unavailable, ruleDownUnsafe, "apps that write volumes run, and what they need to store them can't be started: %w", unready.err).
				Want("registry and CAS where they were").
				Fix("%s; then run this again, or cupel up, which adopts them. cupel down --force ends them as they are: what they wrote since they started is lost", unready.mend())
		}
		if err != nil {
			log.WarnContext(ctx, "apps not stopped in order: ending their processes", "error", err)
		}
	}

	if lost {
		log.WarnContext(ctx, "not known whether all apps stored their volumes: the manager's database is gone or damaged")
	} else if err := l.tellLost(ctx, began, log); err != nil {
		log.WarnContext(ctx, "not known whether all apps stored their volumes: see cupel events after the next up", "error", err)
	}

	if err := l.sweep(ctx); err != nil || !o.Force || !lost {
		return err
	}
	return l.forget(ctx, log)
}

// tellLost warns of apps that were stopped since then and did not store what they
// wrote.
func (l layout) tellLost(ctx context.Context, since time.Time, log *slog.Logger) (err error) {
	if !exists(l.path("manager.db")) { // nothing was ever deployed
		return nil
	}

	store, err := managerdb.Open(ctx, l.path("manager.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	for last := uint64(0); ; {
		events, err := store.Events(ctx, last, manager.EventFilter{}, 1000)
		if err != nil || len(events) == 0 {
			return err
		}
		for _, e := range events {
			if last = e.Seq; e.Reason == managerapi.ReasonNotCommitted && !e.Time.Before(since) {
				log.WarnContext(ctx, "volume not stored", "app", e.App, "instance", e.Instance, "detail", e.Message)
			}
		}
	}
}

// takeOver makes a running cupeld stop everything, and then holds the lock. A nil lock
// without an error says that there is nothing to lock: the folder is not there, is none of
// Cupel's, is another one than that of what runs, or can't be read and everything was ended
// by force.
func takeOver(ctx context.Context, o Options, what work, log *slog.Logger) (layout, *stateLock, error) {
	l, err := newLayout(o.State)
	if err != nil {
		return l, nil, err
	}
	if os.Geteuid() != 0 {
		return l, nil, problem.New(problem.Denied, ruleRoot, "not root").Fix("run it as root, with sudo")
	}

	if _, err := os.Stat(l.dir); errors.Is(err, fs.ErrNotExist) {
		return l, nil, nil
	}

	switch {
	case what == workDown && l.gone():
		return l, nil, nil
	case what == workCleanup:
		if err := l.ours(); err != nil {
			return l, nil, err
		}
	}

	defer l.goFirst(ctx)()
	began := time.Now()
	t := takeover{
		layout: l,
		o:      o,
		force:  o.Force || what == workCleanup,
		began:  began,
		said:   began,
	}
	defer func() { t.gone.forget() }()

	for err = nil; ; {
		var lock *stateLock
		lock, err = l.lockAgain(what, err)
		if away, ok := errors.AsType[*awayError](err); ok {
			if !o.Force || away.dir != l.dir {
				return l, nil, away.problem()
			}
			log.WarnContext(ctx, endedAsItIs, "why", away.Error())
			return l, nil, l.endAway(ctx, away.cupeld)
		}

		held, ok := errors.AsType[*lockedError](err)
		if !ok {
			_, missing := os.Stat(l.dir)
			if errors.Is(missing, fs.ErrNotExist) { // or another one cleaned up meanwhile
				return l, nil, nil
			}
			if missing == nil && errors.Is(err, fs.ErrNotExist) { // made again meanwhile
				continue
			}

			t.gone.wait(ctx)
			if o.Force && what == workDown && diskerror.Fails(err) {
				return l, nil, l.endBlind(ctx, log)
			}
			if err == nil {
				if err = l.elsewhere(ctx); err != nil {
					lock.release()
				}
			}
			return l, lock, err
		}

		if err := t.press(held); err != nil {
			return l, nil, err
		}

		select {
		case <-ctx.Done():
			return l, nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// takeover is the wait for a lock that another one holds.
type takeover struct {
	layout
	o       Options
	asked   int // the process that was told to end; 0: none
	askedAt time.Time
	gone    ending // of that
	force   bool   // also who deletes all of it wants nothing stored
	began   time.Time
	said    time.Time // when something was said last
	line    string    // what was said last
	word    string    // what that process wrote last
	heard   time.Time // when that was
}

// press has who holds the lock give it back: it is told to end, or ended by force, and
// whoever waits hears of it. One that takes too long is refused.
func (t *takeover) press(held *lockedError) error {
	if err := errors.Join(t.end(held), t.ask(held)); err != nil {
		return err
	}
	t.tell(held)

	if time.Since(t.began) > downTimeout {
		return problem.New(problem.Unavailable, ruleDownTimeout, "cupeld (process %d) still runs after %s", held.pid, problem.Duration(downTimeout)).
			Fix("read its log under %s; cupel down --force ends it", t.path("log"))
	}
	return nil
}

// end ends a cupeld by force, if that is wanted, which was stopped, says nothing any more
// or doesn't end in time; its apps go on, and are ended without it. One that was stopped,
// or says nothing any more, is refused otherwise.
func (t *takeover) end(held *lockedError) error {
	stopped := held.stopped()
	overdue := held.pid == t.asked && time.Since(t.askedAt) > t.keptLimits().Grace+cmp.Or(t.o.forcedReport, forcedReport)

	if word := held.word(); word != t.word {
		t.word = word
		t.heard = time.Now()
	}

	limit := cmp.Or(t.o.quietLimit, quietLimit)
	quiet := held.pid == t.asked && held.renews && time.Since(t.heard) > limit

	if t.force && (stopped != nil || overdue || quiet) && (held.unlinked || t.holds(held.pid)) {
		if err := syscall.Kill(held.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end cupeld (process %d): %w", held.pid, err)
		}
		return nil
	}

	if stopped != nil {
		return stopped
	}
	if quiet {
		return t.quiet(held.pid, limit)
	}
	return nil
}

// ask tells a cupeld once to stop everything. Another down or cleanup is waited for: it
// ends by itself.
func (t *takeover) ask(held *lockedError) error {
	if !held.what.daemon() || held.pid == 0 || held.pid == t.asked {
		return nil
	}

	t.gone.forget()
	t.gone = watchEnd(held.pid)
	// SIGINT is what Ctrl-C in the foreground sends: apps stop too.
	if err := syscall.Kill(held.pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop cupeld (process %d): %w", held.pid, err)
	}

	t.asked = held.pid
	t.askedAt = time.Now()
	t.heard = t.askedAt
	return nil
}

// tell says what is waited for, sooner where that is something else than it was.
func (t *takeover) tell(held *lockedError) {
	since := time.Since(t.said)
	if t.o.tell != nil && (since > tellEvery && held.waits() != t.line || since > renewEvery) {
		t.said = time.Now()
		t.line = held.waits()
		t.o.tell(t.line)
	}
}

// endBlind ends the daemons of a folder whose disk fails: no file says who they are, so that
// they are found by their arguments and their control group, and no app can store anything.
func (l layout) endBlind(ctx context.Context, log *slog.Logger) error {
	log.WarnContext(ctx, "the disk of the state folder fails: everything is ended as it is, and what apps wrote since they stored their volumes last is lost. "+
		"Look at dmesg; then umount it, fsck, mount, and cupel up", "state", l.dir)
	return l.killDaemons()
}

// Limits of cupel down --force.
const (
	// forcedReport is how long beyond the apps' grace cupeld may take to end.
	forcedReport = 30 * time.Second
	// forcedCommit is how long beyond their grace apps may store volumes where cupeld
	// is dead.
	forcedCommit = time.Minute
)

// openManager opens what stops apps in order, before the first is told to stop.
func (p *parts) openManager(ctx context.Context) (err error) {
	if err := p.openBalancer(ctx, Options{}); err != nil {
		return err
	}

	if p.store, err = managerdb.Open(ctx, p.path("manager.db")); err != nil {
		return err
	}
	p.onClose(p.store.Close)

	_, err = p.store.Load(ctx)
	return err
}

// unreadyError says that what apps need to store their volumes can't be started. They
// still run.
type unreadyError struct{ err error }

func (e *unreadyError) Error() string { return e.err.Error() }
func (e *unreadyError) Unwrap() error { return e.err }

// mend is what to do about it while no manager runs, which could remove anything.
func (e *unreadyError) mend() string {
	if problem.Is(e.err, diskerror.RuleFull) {
		return "remove from that disk what is not Cupel's, or make it larger"
	}
	if diskerror.ReadOnly(e.err) {
		return "mount that disk for writing, if the kernel (dmesg) lets that be"
	}
	return "mend that"
}

// writes reports whether there are apps that write volumes, or may be.
func (l layout) writes(ctx context.Context) bool {
	if l.managerLost(ctx) {
		return true
	}
	if !exists(l.path("manager.db")) {
		return false
	}

	store, err := managerdb.Open(ctx, l.path("manager.db"))
	if err != nil {
		return true
	}
	defer func() { _ = store.Close() }()

	state, err := store.Load(ctx)
	if err != nil {
		return true
	}

	for _, in := range state.Replicas {
		if !in.Done && len(in.Writes) > 0 {
			return true
		}
	}

	for _, a := range state.Apps {
		for _, rev := range []*manager.Revision{a.Current, a.Next, a.Lost} {
			unknown := rev != nil && rev.Grant == nil && !rev.Ungranted // from before there were grants
			if rev != nil && (unknown || len(rev.Writes) > 0) {
				return true
			}
		}
	}
	return false
}

// stopOrphans stops in order what a dead cupeld left running, on the parts that apps need to
// store what they wrote. With strict, nothing is stopped where one of these can't be started.
func stopOrphans(ctx context.Context, l layout, o Options, strict bool, log *slog.Logger) (err error) {
	p := newParts(l, log)
	p.limits = l.keptLimits()
	p.ends.say = func(line string) {
		if o.tell != nil && line != "" {
			o.tell(line)
		}
	}
	defer func() { err = errors.Join(err, p.close()) }()

	if least, err := l.roomOf(""); err == nil && least.check() != nil {
		(&reserve{dir: l.path(reserveFolder)}).release()
	}

	// Where they were: instances know the CAS's port.
	if err := p.whole(); err != nil {
		return &unreadyError{err}
	}
	if err := p.repair(ctx); err != nil {
		return &unreadyError{err}
	}

	p.withoutDisks(ctx)
	ports := loadPorts(l.path(portsFile))
	ports.complete(l.dir)
	o.RegistryListen = ports.again(registryListener, "127.0.0.1")
	o.CASOwners = ports.again(ownersListener, "127.0.0.1")
	o.CASInstances = ports.again(instancesListener, "0.0.0.0")
	p.casEnds() // a CAS that was stopped holds its port

	c, err := p.carry(ctx, o, ports)
	if err != nil {
		return &unreadyError{err}
	}
	defer c.end()

	if o.Force {
		p.node.StoreWithin(forcedCommit)
	}
	if _, err := p.carryCAS(ctx, c, o, ports); err != nil {
		if strict {
			c.end()
			return &unreadyError{errors.Join(err, c.parts.Wait())}
		}
		log.WarnContext(ctx, "without a CAS no app can store its volumes", "error", err)
		p.node.StoreNothing()
	}

	if err := p.openManager(ctx); err != nil {
		c.end()
		return &unreadyError{errors.Join(err, c.parts.Wait())}
	}
	err = p.stopApps(ctx)
	c.end()
	return errors.Join(err, c.parts.Wait())
}

// containerdRuns reports whether the private containerd is there, without which no
// instance can be stopped in order.
func (l layout) containerdRuns() bool {
	return slices.ContainsFunc(l.processes(), func(p process) bool { return p.name == "containerd" })
}

// cgroupExists reports whether the instances have a control group, of version 1 or 2.
func (l layout) cgroupExists() bool {
	found, _ := filepath.Glob("/sys/fs/cgroup/*" + string(l.cgroup())) // the pattern is valid
	_, err := os.Stat("/sys/fs/cgroup" + string(l.cgroup()))
	return len(found) > 0 || err == nil
}

// sweep removes from the machine whatever carries this installation's name:
// processes, control groups, mounts, network namespaces, bridge, packet rules,
// kernel settings, sockets. It needs nothing to be in order.
func (l layout) sweep(ctx context.Context) error {
	var errs []error
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err == nil {
		errs = append(errs, groups.Kill(l.cgroup()))
	} else {
		errs = append(errs, err)
	}

	errs = append(errs, l.endProcesses(ctx))
	if groups != nil { // in the daemons' may be a CAS, whose user only its folder tells
		errs = append(errs, clearGroup(ctx, groups, l.cgroup()), clearGroup(ctx, groups, l.daemonGroup()))
	}

	netcheck.Clean(l.id)
	errs = append(errs,
		l.unmountAll(),
		balance.RemoveTable(ctx, l.table()),
		l.removeBridge(),
		sysctl.Default().Release(sysctl.Holder(l.id)))
	errs = append(errs, removeIfLink("/run/cupel-"+l.id))

	// A mounted namespace's file stays behind when it was unmounted. A disk that takes no
	// writes keeps these until the next start.
	for _, path := range []string{l.path("node", "netns"), l.path(client.EndpointFile)} {
		if err := os.RemoveAll(path); !diskerror.ReadOnly(err) && !diskerror.Fails(err) && !errors.Is(err, syscall.ENOTDIR) {
			errs = append(errs, err)
		}
	}

	return errors.Join(errs...)
}

// ignoreMissing takes it for done that something which shall go is not there.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeIfLink removes what is at a path, if it is a link.
func removeIfLink(path string) error {
	if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return nil
	}
	return ignoreMissing(os.Remove(path))
}

func (l layout) removeBridge() error {
	link, err := netlink.LinkByName(l.bridge())
	if err != nil {
		return nil // none
	}

	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("remove bridge %s: %w", l.bridge(), err)
	}
	return nil
}
