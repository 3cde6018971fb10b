package cli

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
)

// newcomersEvery is how often whoever follows an app looks for instances that came
// since.
const newcomersEvery = 2 * time.Second

// follower shows the output of an app's instances as it comes, and that of those
// that replace them.
type follower struct {
	g     *globals
	m     *client.Manager
	role  string
	every time.Duration // between looks for newcomers

	mu      sync.Mutex
	opts    client.LogOptions
	known   map[string]bool       // instances that are or were followed
	follows int                   // streams that go on
	refused []string              // instances that aren't followed, until nobody is
	told    map[problem.Rule]bool // rules of refusals that were told
}

// followLogs goes on until ctx ends, or nothing more can come.
func (o *logsOptions) followLogs(ctx context.Context, g *globals, m *client.Manager, ids []string, opts client.LogOptions) error {
	f := &follower{
		g:     g,
		m:     m,
		opts:  opts,
		role:  o.role(),
		every: newcomersEvery,
		known: map[string]bool{},
	}

	one := len(ids) == 1 && ids[0] == o.ref
	err := f.follow(ctx, ids, o.ref, one || o.puller || o.previous)

	if one && err == nil && ctx.Err() == nil && !o.previous {
		g.warnf("%s was removed or ended for good: nothing more comes of it. To go on with what replaces an app's instances: cupel logs APP -f", o.ref)
	}

	return err
}

// follow shows what the instances write, and, unless they are all that is meant,
// what others of the app write that come later.
func (f *follower) follow(ctx context.Context, ids []string, app string, all bool) error {
	group, ctx := errgroup.WithContext(ctx)
	f.follows = len(ids)
	for _, id := range ids {
		f.start(ctx, group, id, all)
	}

	for over := all; !over; {
		if pause(ctx, f.every) != nil {
			break
		}
		over = f.newcomers(ctx, group, app)
	}

	return group.Wait()
}

// start follows one instance; one that isn't there, or is refused, is an error where all
// are named. Of several the others go on.
func (f *follower) start(ctx context.Context, group *errgroup.Group, id string, all bool) {
	f.mu.Lock()
	f.known[id] = true
	opts := f.opts
	f.mu.Unlock()

	group.Go(func() error {
		err := f.m.Logs(ctx, ident.InstanceRef(id), opts, func(l manager.LogLine) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.g.printLog(l, len(f.known) > 1)
		})

		if all || ctx.Err() != nil {
			return err
		}
		return f.ended(id, err)
	})
}

// ended says whether the end of one stream is an error of the whole: that is a refusal
// where no other one goes on, a manager that is away, and nobody who takes what is shown.
func (f *follower) ended(id string, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.follows--

	if err != nil && problem.KindOf(err) != problem.NotFound {
		return f.refuse(id, err)
	}
	if err != nil {
		delete(f.known, id) // it has not started yet, or is gone already
	}

	if f.follows == 0 { // there may be room for the others now
		for _, id := range f.refused {
			delete(f.known, id)
		}
		f.refused = nil
	}
	return nil
}

// refuse tells, once for each rule, that an instance can't be followed. Callers hold mu.
func (f *follower) refuse(id string, err error) error {
	p, ok := errors.AsType[*problem.Error](err)
	if !ok || p.Rule == client.RuleAway || p.Rule == ruleOutput || f.follows == 0 {
		return err
	}

	f.refused = append(f.refused, id)
	if !f.told[p.Rule] {
		f.g.warnf("%s is not followed, the others go on: %s", id, p)
	}
	if f.told == nil {
		f.told = map[problem.Rule]bool{}
	}
	f.told[p.Rule] = true

	return nil
}

// warn writes a line between those that are shown meanwhile.
func (f *follower) warn(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.g.warnf(format, args...)
}

// newcomers follows instances of the app that came since, with all that they wrote.
// It says whether the app is gone.
func (f *follower) newcomers(ctx context.Context, group *errgroup.Group, app string) (over bool) {
	list, err := f.m.Instances(ctx, ident.AppRef(app))
	if err != nil {
		// One that was removed leaves nothing to wait for; a manager that is away for
		// a moment comes back.
		gone := problem.KindOf(err) == problem.NotFound
		if gone {
			f.warn("%s was removed: nothing more comes of it", app)
		}
		return gone
	}

	f.mu.Lock()
	fresh := slices.DeleteFunc(list, func(in manager.Instance) bool {
		return f.known[in.ID] || in.Role != f.role || in.State == manager.InstanceWaiting
	})
	f.opts.Tail = -1
	f.opts.Since = time.Time{}
	f.follows += len(fresh)
	f.mu.Unlock()

	for _, in := range fresh {
		f.warn("%s of revision %d is followed from now on", in.ID, in.Revision)
		f.start(ctx, group, in.ID, false)
	}

	return false
}
