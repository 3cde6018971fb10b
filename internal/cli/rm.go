package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

type rmOptions struct {
	managerAs
	app     ident.AppRef
	timeout time.Duration
}

func newRmCommand(g *globals) *cobra.Command {
	o := rmOptions{managerAs: managerAs{g: g}}
	c := &cobra.Command{
		Use:   "rm INSTANCE | rm --app APP",
		Short: "Remove one instance, or an app with all its instances",
		Long: `Removes one instance: the app goes on with one fewer, and only the clients of that
instance move to others. With --app removes an app, in whatever state it is. The
session and its volume stay at the CAS and the registry. Of an app that you deployed
the CAS is asked whether its grant has ended: one that the manager keeps is withdrawn.`,
		Example: "  cupel rm i-3f9k2m1x\n  cupel rm --app my-app",
		Args:    exactArgs("[INSTANCE]"),

		ValidArgsFunction: g.complete(first(o.instances())),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case o.app != "" && len(args) == 0:
				return runRmApp(c.Context(), g, o)
			case o.app == "" && len(args) == 1:
				return runRmInstance(c.Context(), g, o, args[0])
			}
			return problem.New(problem.Invalid, problem.RuleUsage, "neither or both of INSTANCE and --app").Want("one of them").Fix("see 'cupel rm --help'")
		},
	}

	o.flags(c)
	f := c.Flags()
	f.StringVar((*string)(&o.app), "app", "", "the app to remove, by name or id")
	_ = c.RegisterFlagCompletionFunc("app", g.complete(o.apps()))
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait until it is gone")
	return c
}

func runRmInstance(ctx context.Context, g *globals, o rmOptions, id string) error {
	m, at, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()

	r, err := lasting(ctx, g, "cupel ps", func(ctx context.Context) (manager.RemoveInstanceReply, error) {
		return m.RemoveInstance(ctx, ident.InstanceRef(id))
	})
	if err != nil {
		return err
	}

	err = g.awaitGone(ctx, o.timeout, id, func() (bool, error) {
		list, err := m.Instances(ctx, "")
		for _, i := range list {
			if i.ID == id {
				return false, nil
			}
		}
		return true, err
	})
	if err != nil {
		return err
	}

	lost, err := notKept(ctx, m, ident.AppRef(r.App), time.Time{})
	if err != nil {
		return err
	}
	g.warnNotKept(at, slices.DeleteFunc(lost, func(e manager.Event) bool { return e.Instance != id }))

	if g.json() {
		return g.printJSON(r)
	}

	g.printf("%s%s removed; %s goes on with %s\n", at.options.Source.Says(), id, r.App, problem.Count(r.Instances, "instance"))
	return nil
}

func runRmApp(ctx context.Context, g *globals, o rmOptions) error {
	m, at, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()

	began := time.Now()
	a, err := lasting(ctx, g, "cupel ps", func(ctx context.Context) (manager.App, error) { return m.RemoveApp(ctx, o.app) })
	if problem.KindOf(err) == problem.NotFound {
		return g.alreadyGone(ctx, o.app, err)
	}
	if err != nil {
		return err
	}

	err = g.awaitGone(ctx, o.timeout, a.Name, func() (bool, error) {
		_, err := m.App(ctx, ident.AppRef(a.ID))
		if err != nil && problem.KindOf(err) == problem.NotFound {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return err
	}

	lost, err := notKept(ctx, m, ident.AppRef(a.ID), began)
	if err != nil {
		return err
	}
	g.warnNotKept(at, lost)

	confirmed, err := g.confirmGone(ctx, o.app, a)
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(map[string]any{"app": a.Name, "id": a.ID, "state": "removed", "confirmed": confirmed})
	}

	word := at.options.Source.Says()
	if confirmed {
		word = ""
	}
	g.printf("%s%s removed\n", word, a.Name)
	return nil
}

// confirmGone has the CAS confirm that nobody can run an app any more which its manager
// removed, and then forgets it. False without an error: it was not deployed from here, or
// the CAS can't tell. What the command calls it and the manager's id have to lead to the
// same app: by one of them alone a manager could have another's grants withdrawn.
func (g *globals) confirmGone(ctx context.Context, ref ident.AppRef, gone manager.App) (confirmed bool, err error) {
	side, all, err := g.remembered(ctx)
	if err != nil || side == nil {
		return false, err
	}

	_, app, known := all.At(g.place(), ref)
	if !known {
		return false, nil
	}
	if !all.Same(g.place(), ref, ident.AppRef(gone.ID)) {
		g.warnf("What was deployed from here as %s is another app, by its id: whether that one is gone is not confirmed; see 'cupel session grants %s'.", ref, app.Session)
		return false, nil
	}

	if confirmed = len(app.Grants) > 0; confirmed {
		err = side.endRights(ctx, gone.Name, app)
	}

	switch {
	case err != nil && ctx.Err() != nil:
		g.warnf("The manager says that %s is gone; whether its grant has ended was not waited for: cupel session grants %s", gone.Name, app.Session)
		return false, err
	case err != nil:
		return false, unconfirmed(gone.Name, app, err)
	}

	g.forget(ctx, side, ref)
	return confirmed, nil
}

// alreadyGone is what there is to say of an app that the manager doesn't know. One that was
// deployed from here is forgotten, unless it could run all the same by the word of its CAS.
func (g *globals) alreadyGone(ctx context.Context, ref ident.AppRef, unknown error) error {
	side, all, err := g.remembered(ctx)
	if err != nil {
		return err
	}

	_, app, known := all.At(g.place(), ref)
	if !known || len(app.Grants) == 0 || !app.Is(ref) && app.Called(ref) != ref {
		return unknown
	}

	left, err := side.leftOf(ctx, app)
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		return unconfirmed(string(ref), app, err)
	case len(left) > 0:
		return problem.New(problem.Unavailable, ruleRmUnconfirmed, "the manager says that there is no app %s, and grant %s, under which it was deployed from here, has not ended", ref, left[0].ID.Short()).
			Want("no grant by which it could run").
			Fix("if it shall be gone, end what is left: cupel session grants %s --withdraw %s; then run this again", app.Session, left[0].ID.Short())
	}

	g.forget(ctx, side, ref)
	return unknown
}

// remembered is the owner's side with the apps that were deployed from here; nil: nobody
// has deployed any.
func (g *globals) remembered(ctx context.Context) (*ownerSide, home.Deployed, error) {
	if !g.haveOwnKey() {
		return nil, nil, nil
	}

	side, err := g.ownerSide(ctx)
	if err != nil {
		return nil, nil, err
	}
	all, err := g.deployed(side.dir)
	return side, all, err
}

// forget forgets under which session an app that is gone was deployed from here: another
// may have its name from now on.
func (g *globals) forget(ctx context.Context, side *ownerSide, ref ident.AppRef) {
	err := g.updateDeployed(context.WithoutCancel(ctx), side.dir, func(all home.Deployed) error {
		all.Forget(g.place(), ref)
		return nil
	})

	if err != nil {
		g.warnf("What is known here of %s is not forgotten: %v", ref, err)
	}
}

// notKept are the events of instances that ended without keeping what they wrote.
func notKept(ctx context.Context, m *client.Manager, app ident.AppRef, since time.Time) ([]manager.Event, error) {
	var out []manager.Event
	err := m.Events(ctx, 0, app, false, func(e manager.Event) error {
		if e.Reason == manager.ReasonNotCommitted && !e.Time.Before(since) {
			out = append(out, e)
		}
		return nil
	})

	return out, err
}

func (g *globals) warnNotKept(at managerAt, events []manager.Event) {
	for _, e := range events {
		g.warnf("warning: %s%s did not commit its volumes: %s", at.options.Source.Says(), e.Instance, g.inState(e.Message))
	}
}

// awaitGone waits until gone says so. The removal goes on if it takes longer, or nobody
// waits any more.
func (g *globals) awaitGone(ctx context.Context, timeout time.Duration, what string, gone func() (bool, error)) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			g.warnf("The removal of %s goes on without you; see 'cupel events'.", what)
		}
	}()

	deadline := time.Now().Add(timeout)
	said := time.Now().Add(tellAfter)
	for {
		ok, err := gone()
		if ok || err != nil {
			return err
		}

		if time.Now().After(deadline) {
			return problem.New(problem.Unavailable, ruleRmTimeout, "%s is not gone after %s; its removal goes on", what, problem.Duration(timeout)).Fix("see 'cupel events'")
		}

		if !said.IsZero() && time.Now().After(said) {
			said = time.Time{}
			g.warnf("Waiting until %s is gone, for up to %s (--timeout): what runs is told to end, and stores what it wrote.", what, problem.Duration(timeout))
		}

		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// tellAfter is how long something may take before what is waited for is said.
const tellAfter = 3 * time.Second
