package launcher

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/instance/las"
	"cupel.dev/cupel/internal/trusted/wire"
)

const (
	defaultKeepAlive = 10 * time.Second
	// refusedPause bounds the pauses between tries to be attested again that fail.
	refusedPause = 5 * time.Minute
)

// rights keeps what the CAS gave this instance: by reports, and by being attested
// again, on a fresh connection under the same key, when the rights lapsed or a
// certificate's half-life is over.
//
// A CAS that can't be reached is no reason to stop, unless the session says for
// how long. One that says that the right to run was withdrawn, that another copy
// writes the volume, or that it has forgotten what this one was released, is: the
// app ends, and nothing of it is kept. One that says no for another reason is told
// of once, and the app goes on with what it has.
type rights struct {
	launcher *launcher
	sigs     *signals
	every    time.Duration // between reports
	offline  time.Duration // 0: without end
	told     problem.Rule  // rule of what people were told last
	again    retrying

	mu      sync.Mutex
	granted released
	view    *appView // nil: the app doesn't run; guarded by mu, which is held while files are replaced
	owner   appUser
}

func newRights(l *launcher, sigs *signals, reply *wire.ReleaseReply) *rights {
	r := &rights{
		launcher: l,
		sigs:     sigs,
		every:    time.Duration(reply.KeepAliveSeconds) * time.Second,
		offline:  time.Duration(reply.OfflineSeconds) * time.Second,
		granted:  remember(reply),
	}
	if r.every <= 0 {
		r.every = defaultKeepAlive
	}
	return r
}

// hold begins, and goes on until stop is called: from the release on, while
// volumes are fetched and while they are stored too. An instance that lapsed in
// between would have lost its lease, and with it what the app wrote. The node is
// told what it missed at the same pace.
func (r *rights) hold(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a signal doesn't end it
	var kept sync.WaitGroup
	every := r.every
	kept.Go(func() { r.keep(ctx) })
	kept.Go(func() { r.launcher.teller.keep(ctx, every) })

	if r.offline > 0 {
		kept.Go(func() { r.watchOffline(ctx) })
	}
	return func() { cancel(); kept.Wait() }
}

// appRuns says that the app's root is there.
func (r *rights) appRuns(view *appView, owner appUser) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view = view
	r.owner = owner
}

// appEnded says that nothing needs new files any more.
func (r *rights) appEnded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view = nil
}

func (r *rights) keep(ctx context.Context) {
	pause := r.every
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}

		err := r.beat(ctx)
		if ctx.Err() != nil {
			return
		}
		if why := r.fatal(err); why != nil {
			r.sigs.halt(why)
			return
		}

		pause = r.every
		if transient(err) {
			pause = max(r.every/3, time.Second)
		}
		r.tell(err)
	}
}

// beat is one report, and what the answer asks for.
func (r *rights) beat(ctx context.Context) error {
	var reply wire.KeepAliveReply
	err := r.launcher.cas.call(ctx, wire.PathKeepAlive, wire.KeepAlive{Version: wire.ReleaseVersion}, &reply)
	if err == nil && reply.KeepAliveSeconds > 0 {
		r.every = time.Duration(reply.KeepAliveSeconds) * time.Second
	}

	lapsed := ruleOf(err) == problem.RuleInstanceLapsed
	due := err == nil && reply.CertificateDue && r.runs()
	switch {
	case !lapsed && !due:
		r.again = retrying{}
		return err
	case time.Now().Before(r.again.at):
		return r.again.after
	}

	err = r.attestAgain(ctx, lapsed)
	r.again = r.again.next(err, r.every)
	return err
}

// retrying spaces attempts to be attested again that failed: each costs the CAS a
// verification.
type retrying struct {
	at    time.Time
	pause time.Duration
	after error // what the last attempt met
}

func (t retrying) next(err error, every time.Duration) retrying {
	switch {
	case err == nil:
		return retrying{}
	case transient(err):
		return retrying{at: time.Now().Add(every), after: err}
	}
	pause := min(2*max(t.pause, every), refusedPause)
	return retrying{at: time.Now().Add(pause), pause: pause, after: err}
}

// runs says whether there is an app that can be given files.
func (r *rights) runs() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view != nil
}

// attestAgain gets what a release gives, once more, and puts what changed into the
// app's root.
func (r *rights) attestAgain(ctx context.Context, lapsed bool) error {
	l := r.launcher
	reply, err := l.cas.release(ctx, las.Client{Addr: l.host.LAS}, l.host.Config)
	if err != nil {
		return err
	}
	defer wipe(reply)

	if name, lost := r.granted.lost(reply); lost {
		return problem.New(problem.Denied, problem.RuleLeaseEnded, "this copy no longer has the lease of volume %s", name).
			Fix("start the instance again: it begins with the newest state")
	}
	if err := r.renew(reply); err != nil {
		return problem.New(problem.Conflict, ruleRenewal, "put the renewed files into the app's root: %w", err).
			Fix("start the instance again before its certificate ends")
	}
	if lapsed {
		l.say("attested again: this instance has its rights back")
	}
	return nil
}

// wipe removes from memory what a second answer repeats.
func wipe(reply *wire.ReleaseReply) {
	for _, v := range reply.Volumes {
		clear(v.Key)
		clear(v.NextKey)
	}
	for _, f := range reply.Files {
		clear(f.Content)
	}
}

// renew replaces the files that differ and tells the app. What it was started with
// can't be replaced, nor does anybody know whether an app that wanted no signal
// reads its files again: then what the node knows of the certificate that the app
// began with stays.
func (r *rights) renew(reply *wire.ReleaseReply) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	files := r.granted.changed(reply.Files)
	if r.view == nil || len(files) == 0 {
		return nil
	}

	sig, err := renewalSignal(reply)
	if err != nil {
		return err
	}

	if err := r.view.replace(files, r.owner); err != nil {
		return err
	}
	for _, f := range files {
		r.granted.files[f.Path] = fileDigest(f)
	}
	r.launcher.say("renewed %d of the app's files", len(files))

	if sig == 0 {
		return nil
	}
	r.sigs.tell(sig)
	if r.granted.setting == settingOf(reply) {
		r.launcher.teller.renewed(reply.CertificateUntil)
	}
	return nil
}

// fatal is why the instance may not go on; nil: it may.
func (r *rights) fatal(err error) *problem.Error {
	p := problem.From(err)
	switch ruleOf(err) {
	case problem.RuleInstanceWithdrawn, problem.RuleInstanceGone, problem.RuleGrantEnded, problem.RuleGrantUsed, problem.RuleSessionUnknown:
		why := *p
		why.Kind, why.Rule = problem.Denied, problem.RuleGrantEnded
		if why.Mend == "" {
			why.Mend = "ask the session's owner for a new grant"
		}
		return &why
	case problem.RuleInstanceUnknown:
		why := *p
		why.Kind = problem.Denied
		return &why
	case problem.RuleLeaseEnded, problem.RuleLeaseHeld:
		if len(r.granted.writes) > 0 {
			why := *p
			why.Rule = problem.RuleLeaseEnded
			return &why
		}
	}
	return nil
}

func ruleOf(err error) problem.Rule {
	if err == nil {
		return ""
	}
	return problem.From(err).Rule
}

// transient says that the CAS may answer otherwise in a moment.
func transient(err error) bool {
	switch problem.KindOf(err) {
	case "", problem.Denied, problem.Unauthenticated, problem.NotFound, problem.Invalid, problem.Conflict:
		return false
	}
	return true
}

// tell says to people what the CAS says, when it says something else than before.
func (r *rights) tell(err error) {
	rule := ruleOf(err)
	if rule == r.told {
		return
	}
	switch {
	case err == nil:
		r.launcher.say("the CAS is back")
	case transient(err), rule == ruleRenewal:
		r.launcher.say("keep-alive: %v", err)
	default:
		r.launcher.say("the CAS ended this instance's rights; the app goes on with what it has: %v", err)
	}

	r.told = rule
}

// watchOffline ends the instance when the CAS was not heard of for too long. The
// clock also runs while the machine sleeps and while the launcher is held.
func (r *rights) watchOffline(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}

		silent := bootTime() - time.Duration(r.launcher.cas.heard.Load())
		if silent <= r.offline {
			continue
		}
		r.sigs.halt(problem.New(problem.Unavailable, RuleOffline, "no answer of the CAS for %v", silent.Round(time.Second)).
			Want("one every %v, as the session's offline: says", r.offline).
			Fix("look at the CAS and at the network to it, then start the instance again"))
		return
	}
}

// bootTime is the time since the machine started, with the time that it slept.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // no kernel of ours lacks it
	}
	return time.Duration(ts.Nano())
}
