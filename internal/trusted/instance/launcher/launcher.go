package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/instance/las"
	"cupel.dev/cupel/internal/trusted/instance/node"
	"cupel.dev/cupel/internal/trusted/wire"
)

const (
	// Patience is how long the launcher keeps trying to reach CAS, LAS or node.
	Patience = 60 * time.Second
	// hostDir is where the launch profile mounts the instance's sockets.
	hostDir = "/run/cupel"
	// exitPatience is how long the exit report to the CAS is tried.
	exitPatience = 10 * time.Second
)

// launcher is one run. Its fields are set before the second goroutine starts.
type launcher struct {
	stderr   io.Writer
	now      func() time.Time
	patience time.Duration

	host   Host
	image  Command
	cas    *casClient
	node   *node.Node
	teller teller // of the instance's status, to node
	rights *rights

	waiting problem.Rule // rule of what noteRetry told last
}

// Run is the whole road, from the arguments after "run" and the environment
// to the exit code. It may be called once in a process, which is PID 1.
func Run(ctx context.Context, args, environ []string, stderr io.Writer) int {
	KeepOutput()
	l := &launcher{stderr: stderr, now: time.Now, patience: Patience}

	ctx, sigs := handleSignals(ctx)
	defer sigs.close()

	code, err := l.run(ctx, sigs, args, environ)
	if err == nil {
		return code
	}

	if s, ok := errors.AsType[stopped](context.Cause(ctx)); ok {
		l.say("%v", s)
		l.report(wire.Exited, exitSignal+int(s.signal), nil)
		return exitSignal + int(s.signal)
	}

	// The problem's own fields for programs, the whole chain for people.
	l.say("%v", err)
	l.report(wire.Refused, code, problem.From(err))
	return code
}

// run returns the app's exit code, or why there is none and the code for that.
func (l *launcher) run(ctx context.Context, sigs *signals, args, environ []string) (int, error) {
	mem, err := l.inspect(args, environ)
	if err != nil {
		return exitRefused, err
	}

	reply, err := l.attest(ctx)
	if err != nil {
		return exitRefused, err
	}

	l.rights = newRights(l, sigs, reply)
	stop := l.rights.hold(ctx)
	code, lost, err := l.serve(ctx, sigs, reply, mem)

	stop() // what is reported after the exit would be refused

	if why := sigs.refused(); why != nil && err != nil && why.Rule != RuleOffline {
		return code, err // the rights are gone: there is nothing to tell
	}

	reason := ""
	switch {
	case err != nil:
		reason = string(problem.From(err).Rule)
	case lost != nil:
		reason = string(lost.Rule)
	}

	l.reportExit(code, reason)
	if err == nil {
		l.report(wire.Exited, code, lost)
	}
	return code, err
}

// serve is what the instance is for: volumes, app, volumes. Where the app's exit
// code stands, and yet nothing of what it wrote is kept, lost says why.
func (l *launcher) serve(ctx context.Context, sigs *signals, reply *wire.ReleaseReply, mem memoryView) (code int, lost *problem.Error, err error) {
	stop, err := stopSignal(reply)
	if err != nil {
		return exitRefused, nil, err
	}
	defer func() {
		// Whatever failed then, failed because of this.
		if why := sigs.refused(); why != nil && err != nil {
			code, err = exitRefused, why
		}
	}()

	p, volumes, err := l.prepare(ctx, reply, mem)
	if err != nil {
		return exitRefused, nil, err
	}

	view, e, code, err := l.runApp(ctx, sigs, p, stop)
	if err != nil {
		return code, nil, err
	}
	defer view.close()
	if why := sigs.refused(); why != nil {
		return exitRefused, nil, why
	}

	code = exitCode(e.status)
	if !anyWritable(volumes) {
		return code, nil, nil
	}

	if lost := e.kept(reply.Job, stop); lost != nil {
		if code == 0 { // which would say that it was done
			return exitRefused, nil, lost
		}
		l.say("%v", lost)
		return code, lost, nil
	}

	if err := l.store(ctx, volumes, view); err != nil {
		return exitRefused, nil, err
	}
	return code, nil, nil
}

// inspect looks at what the host gave, before anything is asked for.
func (l *launcher) inspect(args, environ []string) (memoryView, error) {
	fail := func(err error) (memoryView, error) { return memoryView{}, err }
	if err := sealProcess(); err != nil {
		return fail(err)
	}

	if os.Getpid() != 1 {
		return fail(problem.New(problem.Invalid, ruleNotAnInstance, "cupel-init runs as process %d", os.Getpid()).
			Want("process 1 of an instance").Fix("deploy with `cupel deploy`"))
	}

	// Where the launch profile has it: what is wrong with the environment can
	// be told as well.
	l.node = node.NewNode(filepath.Join(hostDir, wire.NodeSocket))
	var err error
	if l.host, err = ParseHost(environ); err != nil {
		return fail(err)
	}
	socket, err := wire.SocketPath(l.host.LAS)
	if err != nil {
		return fail(err)
	}
	l.node = node.NewNode(filepath.Join(filepath.Dir(socket), wire.NodeSocket))

	l.report(wire.Starting, 0, nil)
	if l.image, err = ParseCommand(args); err != nil {
		return fail(err)
	}

	if err := checkSelf(); err != nil {
		return fail(err)
	}

	proc, err := openProc()
	if err != nil {
		return fail(err)
	}
	defer proc.close()
	text, err := proc.read("self/mountinfo")
	if err != nil {
		return fail(err)
	}

	mounts, err := parseMountinfo(text)
	if err != nil {
		return fail(err)
	}
	if err := checkMounts(mounts); err != nil {
		return fail(err)
	}

	mem, err := readMemory(proc)
	if err != nil {
		return fail(err)
	}

	noswap, err := stage(mem)
	if err != nil {
		return fail(err)
	}
	return mem, checkSwap(mem, noswap)
}

// attest returns what the CAS releases to this instance.
func (l *launcher) attest(ctx context.Context) (*wire.ReleaseReply, error) {
	l.report(wire.Attesting, 0, nil)
	var err error
	if l.cas, err = newCASClient(l.host.CAS, l.now); err != nil {
		return nil, err
	}
	if l.cas.grant, err = grantOf(l.host); err != nil {
		return nil, err
	}

	start := time.Now()
	var reply *wire.ReleaseReply
	err = retry(ctx, l.patience, l.noteRetry, func(ctx context.Context) (err error) {
		reply, err = l.cas.release(ctx, las.Client{Addr: l.host.LAS}, l.host.Config)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attest for %s: %w", l.host.Config, err)
	}

	l.teller.attested(reply.InstanceID, reply.CertificateUntil)
	l.say("attested for %s as %s in %s", l.host.Config, reply.InstanceID.Short(), time.Since(start).Round(time.Millisecond))
	l.report(wire.Attested, 0, nil)
	return reply, nil
}

// prepare opens the volumes and makes the plan of the app.
func (l *launcher) prepare(ctx context.Context, reply *wire.ReleaseReply, mem memoryView) (*plan, []*openVolume, error) {
	user, err := lookupUser(imageFS(), l.image.User)
	if err != nil {
		return nil, nil, err
	}

	p, err := newPlan(l.image, reply, user)
	if err != nil {
		return nil, nil, err
	}

	l.report(wire.Mounting, 0, nil)
	volumes, err := l.openVolumes(ctx, reply.Volumes, user, wire.Budget(mem.limit))
	if err != nil {
		return nil, nil, err
	}
	for _, v := range volumes {
		p.Volumes = append(p.Volumes, planVolume{Dir: v.dir, Path: v.Path})
	}
	return p, volumes, nil
}

// runApp starts the app and returns when it and all of its processes are gone: how
// it ended and the launcher's view of its root; or why it did not start, and the
// code for that.
func (l *launcher) runApp(ctx context.Context, sigs *signals, p *plan, stop syscall.Signal) (*appView, ending, int, error) {
	var a *app
	err := sigs.start(ctx, stop, func() (int, error) {
		var err error
		if a, err = startApp(p); err != nil {
			return 0, err
		}
		return a.pid, nil
	})
	if err != nil {
		return nil, ending{}, exitRefused, err
	}

	code, err := a.ready()
	view := <-a.view
	if err == nil && view == nil {
		code, err = exitRefused, problem.New(problem.Internal, ruleStage2, "stage 2 did not hand over the app's root").
			Fix("start the instance again")
	}
	if err != nil {
		sigs.hold()
		a.sweep()
		return nil, ending{}, code, err
	}

	for _, f := range p.Files {
		clear(f.Content)
	}
	p.Env = nil
	l.rights.appRuns(view, p.User)
	sigs.running()
	l.report(wire.Running, 0, nil)

	e := l.await(a, sigs)
	l.rights.appEnded()
	return view, e, 0, nil
}

// store commits the volumes of an app that ended well. A signal no longer ends
// this: the run's context is left behind, its own patience bounds it.
func (l *launcher) store(ctx context.Context, volumes []*openVolume, view *appView) error {
	said, err := view.statement()
	if err != nil {
		return err
	}

	l.report(wire.Committing, 0, nil)
	return l.commitVolumes(context.WithoutCancel(ctx), volumes, said)
}

func anyWritable(volumes []*openVolume) bool {
	for _, v := range volumes {
		if v.Access == owners.ReadWrite {
			return true
		}
	}
	return false
}

// reportExit ends the instance's rights at the CAS. It is tried for a while:
// without it they lapse.
func (l *launcher) reportExit(code int, reason string) {
	ctx, cancel := context.WithTimeout(context.Background(), exitPatience)
	defer cancel()

	err := retry(ctx, min(l.patience, exitPatience), func(int, error) {}, func(ctx context.Context) error {
		var reply struct{}
		return l.cas.call(ctx, wire.PathExit, wire.Exit{Version: wire.ReleaseVersion, Code: code, Reason: reason}, &reply)
	})
	if err != nil {
		l.say("the CAS was not told of the exit: %v", err)
	}
}

// report tells the node, and returns what it answers.
func (l *launcher) report(phase wire.Phase, code int, p *problem.Error) wire.Orders {
	return l.teller.tell(l.node, func(s *wire.Status) { s.Phase, s.Code, s.Problem = phase, code, p })
}

// noteRetry tells people that something is waited for, and what for: the first
// time, when it becomes another thing, and else more and more rarely.
func (l *launcher) noteRetry(n int, err error) {
	p := problem.From(err)
	if n&(n-1) != 0 && p.Rule == l.waiting {
		return
	}

	l.waiting = p.Rule
	l.say("try %d: %v", n, err)
	l.teller.tell(l.node, func(s *wire.Status) { s.Code, s.Problem = 0, p })
}

// say writes one line for people.
func (l *launcher) say(format string, args ...any) {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, fmt.Sprintf(format, args...))
	_, _ = fmt.Fprintf(l.stderr, "cupel-init: %s\n", line)
}
