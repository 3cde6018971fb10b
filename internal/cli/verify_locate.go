package cli

import (
	"cmp"
	"context"
	"time"

	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// locateApp finds session and address of what the user calls an app: from flags
// and the owner's own records, and else from the manager, whose word decides
// nothing but where to look, and for a while whether a deployment is under way. A
// session that --session names is judged, or none.
func (o *ownerSide) locateApp(ctx context.Context, opts *verifyOptions) (ident.SessionName, error) {
	sessions, err := o.dir.Sessions()
	if err != nil {
		return "", err
	}
	name, unnamed := parseSessionArg(cmp.Or(opts.session, opts.app))
	given := opts.session != ""
	if given && unnamed != nil {
		return "", unnamed
	}
	_, known := sessions[name]
	enough := unnamed == nil && (known || given) && opts.address != ""
	if enough { // it may say that a deployment is under way, and holds up nobody
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}
	at, err := o.g.manager(ctx)
	if err != nil && opts.address != "" {
		return name, unnamed // if it is unknown here, verifySession says so
	}
	if err != nil && o.g.provider != "" {
		return "", err
	}
	if err != nil {
		return "", problem.New(problem.Invalid, "app_address", "where the app listens is not known: %w", err).
			Fix("give --address HOST:PORT, or --state DIR of this machine's manager, or --provider URL of another's")
	}
	m := at.dial(&o.id.Certificate)
	defer m.Close()
	app, err := m.App(ctx, opts.app)
	if enough && (err != nil || app.Session != name) {
		return name, nil // it may run elsewhere
	}
	if err == nil && given && app.Session != name {
		return "", problem.New(problem.Conflict, "app_session", "app %s runs session %s, by the manager's word", opts.app, app.Session).
			Want("session %s, as --session says", name).
			Fix("give the address of the app that runs that session: --address HOST:PORT; or leave --session out")
	}
	if p := problem.From(err); err != nil && p.Rule == "not_owner" {
		q := *p
		return "", q.Fix("if another key deployed it, of a session of yours: cupel verify %s --session SESSION --address HOST:PORT", opts.app)
	}
	if err != nil {
		return "", err
	}
	opts.deploying = app.Deployment.State == manager.DeploymentRunning
	if opts.address == "" && app.Port == 0 {
		return "", problem.New(problem.Unavailable, "app_unreachable", "app %s never served: it has no port yet", app.Name).
			Fix("see 'cupel ps %s', and deploy it again: %s", app.Name, manager.DeployCommand(app.Session, app.Name))
	}
	if opts.address == "" {
		opts.address = at.appAddress(app.Port)
	}
	return app.Session, nil
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
