package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// Who says which session an app is.
const (
	byFlag     = "flag"     // --session
	byRecord   = "deployed" // the owner deployed it so, from here
	byName     = "name"     // the owner has a session of the app's name
	byOperator = "operator" // nothing here says it: the operator's word
)

// knownApp is what the owner's side knows of an app by itself.
type knownApp struct {
	session ident.SessionName
	name    string // that its grants have
	called  string // by the manager, where that is not how the command calls it
	by      string // empty: nothing
	problem error  // why the app's name can't be a session's, where that would be needed
}

// ownWord finds out which session an app is without asking its operator: by --session,
// else by what was deployed from here, else by the name of a session that the owner has.
func (o *ownerSide) ownWord(opts *verifyOptions) (knownApp, error) {
	if opts.session != "" {
		name, err := parseSessionArg(opts.session)
		return knownApp{session: name, name: opts.app, by: byFlag}, err
	}

	sessions, err := o.dir.Sessions()
	if err != nil {
		return knownApp{}, err
	}

	deployed, err := o.g.deployed(o.dir)
	if err != nil {
		return knownApp{}, err
	}

	if name, app, ok := deployed.At(o.g.place(), ident.AppRef(opts.app)); ok {
		return knownApp{session: app.Session, name: string(name), by: byRecord}, nil
	}

	name, unnamed := parseSessionArg(opts.app)
	if _, ok := sessions[name]; ok && unnamed == nil {
		if called, granted, one := deployed.Only(o.g.place(), name); one {
			return knownApp{
				session: name,
				name:    string(granted),
				called:  string(called),
				by:      byRecord,
			}, nil
		}
		return knownApp{session: name, name: opts.app, by: byName}, nil
	}

	var called []ident.SessionName
	for _, s := range slices.Sorted(maps.Keys(sessions)) {
		if manager.AppName(s) == opts.app {
			called = append(called, s)
		}
	}

	if len(called) == 1 {
		return knownApp{session: called[0], name: opts.app, by: byName}, nil
	}

	return knownApp{session: name, name: opts.app, problem: unnamed}, nil
}

// locateApp finds session and address of what the user calls an app: from flags
// and the owner's own records, and only what these don't say from the manager, whose
// word decides nothing else, but for a while whether a deployment is under way. A
// manager that names another session than the owner's side knows is refused.
func (o *ownerSide) locateApp(ctx context.Context, opts *verifyOptions) (ident.SessionName, error) {
	known, err := o.ownWord(opts)
	if err != nil {
		return "", err
	}

	called := cmp.Or(known.called, opts.app) // by the manager
	opts.app = known.name
	opts.by = known.by
	enough := known.by != "" && opts.address != ""

	if enough { // it may say that a deployment is under way, and holds up nobody
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}

	at, err := o.g.manager(ctx)
	if err != nil && opts.address != "" {
		return known.session, known.problem // if it is unknown here, verifySession says so
	}
	if err != nil && o.g.provider != "" {
		return "", err
	}
	if err != nil {
		return "", problem.New(problem.Invalid, ruleAppAddress, "where the app listens is not known: %w", err).
			Fix("give --address HOST:PORT, or --state DIR of this machine's manager, or --provider URL of another's")
	}

	m := at.dial(&o.id.Certificate)
	defer m.Close()

	app, err := m.App(ctx, ident.AppRef(called))
	if enough && (err != nil || app.Session != known.session) {
		return known.session, nil // it may run elsewhere
	}
	if p := problem.From(err); err != nil && p.Rule == problem.RuleNotOwner {
		q := *p
		return "", q.Fix("if another key deployed it, of a session of yours: cupel verify %s --session SESSION --address HOST:PORT", called)
	}
	if err != nil {
		return "", err
	}

	if known.by != "" && app.Session != known.session {
		return "", known.other(called, app.Session)
	}

	opts.by = cmp.Or(known.by, byOperator)
	opts.deploying = app.Deployment.State == manager.DeploymentRunning

	if opts.address == "" && app.Port == 0 {
		return "", problem.New(problem.Unavailable, ruleAppUnreachable, "app %s never served: it has no port yet", app.Name).
			Fix("see 'cupel ps %s', and deploy it again: %s", app.Name, manager.DeployCommand(app.Session, ident.AppRef(app.Name)))
	}
	if opts.address == "" {
		opts.address = at.appAddress(app.Port)
	}

	return app.Session, nil
}

// other refuses a manager that says that an app runs another session than the owner's
// side knows: what answers there would be verified as something else than is meant.
func (k knownApp) other(app string, says ident.SessionName) error {
	p := problem.New(problem.Denied, ruleAppSession, "app %s runs session %s, by the manager's word", app, says)
	elsewhere := fmt.Sprintf("do not use what the manager leads to; if you know where the app of session %s answers: cupel verify %s --session %s --address HOST:PORT", k.session, app, k.session)

	switch k.by {
	case byFlag:
		p.Want("session %s, as --session says", k.session)
	case byRecord:
		p.Want("session %s, under which you deployed it from here", k.session)
		elsewhere = fmt.Sprintf("if you deployed it under %s yourself, from elsewhere: cupel verify %s --session %s; else ", says, app, says) + elsewhere
	case byName:
		p.Want("session %s, which is called so and is yours", k.session)
		elsewhere = fmt.Sprintf("if you deployed it under %s yourself (cupel deploy %s --name %s): cupel verify %s --session %s; else ", says, says, app, app, says) + elsewhere
	}

	return p.Fix("%s", elsewhere)
}

// appName is the first name that the session's app has in its certificate.
func (o *ownerSide) appName(name ident.SessionName) (string, error) {
	sessions, err := o.dir.Sessions()
	if err != nil {
		return "", err
	}

	if dns := sessions[name].DNS; len(dns) > 0 {
		return dns[0], nil
	}
	return "localhost", nil
}
