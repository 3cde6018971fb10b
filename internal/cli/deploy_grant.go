package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/ask"
	"cupel.dev/cupel/internal/trusted/owner/template"
	"cupel.dev/cupel/internal/trusted/session"
)

// withdrawTimeout bounds what is done about a grant when the command ends.
const withdrawTimeout = 20 * time.Second

// readCode reads a grant's code from a file (@FILE) or from standard input (-).
// On a command line it would stay in the shell's history and in /proc.
func (g *globals) readCode(ctx context.Context, arg string) (owners.GrantCode, error) {
	var text []byte
	var err error
	file, isFile := strings.CutPrefix(arg, "@")
	switch {
	case arg == "-":
		text, err = g.readLineIn(ctx, 2*owners.MaxCode)
	case isFile:
		if text, err = readSmall(ctx, file, 2*owners.MaxCode); err != nil {
			return owners.GrantCode{}, err
		}
	default:
		return owners.GrantCode{}, problem.New(problem.Invalid, ruleCodeArgument, "--code with the code itself, of %s", problem.Count(len(arg), "character")).
			Want("@FILE or -").
			Fix("put the code into a file, or pipe it in: who reads the command line of a process, or the shell's history, could use it")
	}

	if err != nil {
		return owners.GrantCode{}, problem.New(problem.Invalid, ruleCode, "%w", err)
	}
	return owners.ParseGrantCode(string(text))
}

// obtainRight gets the request the right to be carried out: a code that was given, a
// grant that the owner makes now, or none where the session asks for none.
func (d *deployment) obtainRight(ctx context.Context, req *manager.DeployRequest) error {
	if d.code != nil {
		req.Code = d.code.String()
		d.grantID = d.code.Grant
		return nil
	}

	var parsed *session.Session
	if !d.blind {
		read, err := d.cas.ReadSession(ctx, d.session, nil)
		if err != nil {
			return err
		}
		if parsed, err = session.Parse([]byte(read.Text)); err != nil {
			return err
		}
		if err := hasService(parsed, req.Service); err != nil {
			return err
		}
	}

	if err := d.fillIn(ctx, req); err != nil {
		return err
	}

	if parsed != nil && !parsed.Access.AsksForGrant() {
		d.g.warnf("Session %s says deploy: [ANY]: anybody may run it, as often as they like, with its secrets.", d.session)
		req.Ungranted = true
		req.Writes = writes(parsed, req.Service)
		return nil
	}

	made, err := d.g.makeGrant(ctx, d.cas, owners.NewGrant{
		Session: d.session,
		App:     d.granted,
		Services: map[ident.ServiceName]owners.GrantedService{
			req.Service:          {Instances: req.Instances},
			template.PullService: {Runs: 1},
		},
		Provider: d.at.operator,
	})
	if err != nil {
		return err
	}

	req.Code = made.Code
	d.grantID = made.Grant.ID
	d.made = &made.Grant
	return nil
}

// hasService refuses a service that was named and that the session doesn't have.
func hasService(s *session.Session, name ident.ServiceName) error {
	if _, there := s.Service(name); there || name == "" {
		return nil
	}

	var names []string
	for _, service := range s.Services {
		if service.Name != template.PullService {
			names = append(names, string(service.Name))
		}
	}

	p := problem.New(problem.NotFound, problem.RuleServiceUnknown, "session %s has no service %s", s.Name, name).
		Want("one of: %s", strings.Join(names, ", "))
	if near := nearName(string(name), names); near != "" {
		return p.Fix("did you mean --service %s?", near)
	}
	return p.Fix("name one of them with --service, or add it to the session")
}

// ours says whether the deployment is under our own grant. It asks the CAS: a manager
// that could say no would get away without being checked.
func (d *deployment) ours(ctx context.Context) (bool, error) {
	if d.code == nil {
		return true, nil
	}
	if d.cas == nil {
		return false, nil
	}

	asking, done := answered(ctx)
	defer done()
	all, err := d.cas.Grants(asking, d.session)
	if err != nil {
		return false, err
	}

	for _, g := range all {
		if g.ID == d.code.Grant && g.Maker == d.side.id.KeyHash {
			d.granted = g.App
			return true, nil
		}
	}
	return false, nil
}

// fillIn asks the manager for what the command leaves open and the grant has
// to say: how many instances the app has.
func (d *deployment) fillIn(ctx context.Context, req *manager.DeployRequest) error {
	apps, err := d.manager.Apps(ctx)
	if err != nil {
		return err
	}

	for _, a := range apps {
		if a.Owner != d.side.id.KeyHash || a.Session != d.session || req.Name != "" && a.Name != req.Name {
			continue
		}
		// As the manager does it: without a name the oldest is meant.
		if d.app == nil || a.CreatedAt.Before(d.app.CreatedAt) {
			d.app = &a
		}
	}

	if d.operator, err = d.at.operatorKey(ctx, d.manager); err != nil {
		return err
	}
	if d.granted, err = d.grantedName(ctx, req.Name); err != nil {
		return err
	}
	if req.Service, err = d.service(ctx, req.Service); err != nil {
		return err
	}

	if req.Instances == 0 && d.app != nil {
		most, err := d.allowed(ctx, req.Service)
		if err != nil {
			return err
		}
		req.Instances = max(1, min(d.app.Instances, most))

		switch {
		case most == 0 && d.app.Instances > 1:
			d.g.warnf("%s has %s by the manager's word, and you granted none of the service %s: it gets 1. For more: --instances %d", d.app.Name, problem.Count(d.app.Instances, "instance"), req.Service, d.app.Instances)
		case most > req.Instances:
			d.g.warnf("%s has %s by the manager's word, and you granted %d: it gets %d. For more: --instances %d", d.app.Name, problem.Count(d.app.Instances, "instance"), most, req.Instances, most)
		case req.Instances < d.app.Instances:
			d.g.warnf("%s has %s by the manager's word, and you granted %d: it gets that many. For more: --instances %d", d.app.Name, problem.Count(d.app.Instances, "instance"), req.Instances, d.app.Instances)
		}
	}

	req.Instances = max(1, req.Instances)
	return nil
}

// grantedName is what the app's grants call it: as the command says, else as the
// grant does that it runs under, by the word of the CAS, else by the session's
// name. A manager that calls it otherwise would split the grants of one app in two,
// and nobody would see that there are two.
func (d *deployment) grantedName(ctx context.Context, given string) (string, error) {
	if given != "" {
		return given, nil
	}

	if d.app != nil && d.app.Grant != nil {
		grants, err := d.cas.Grants(ctx, d.session)
		if err != nil {
			return "", err
		}
		for _, g := range grants {
			if g.ID == *d.app.Grant && g.Maker == d.side.id.KeyHash && d.claimedHere(g) {
				return g.App, nil
			}
		}
	}

	return manager.AppName(d.session), nil
}

// service is which service of the session serves: as the command says, else as the
// newest of the app's grants has it, by the word of the CAS, else the usual one.
func (d *deployment) service(ctx context.Context, given ident.ServiceName) (ident.ServiceName, error) {
	if given != "" || d.app == nil || d.blind {
		return cmp.Or(given, template.AppService), nil
	}

	grants, err := d.cas.Grants(ctx, d.session)
	if err != nil {
		return "", err
	}

	for _, g := range grants { // the newest first
		if g.App != d.granted || g.Maker != d.side.id.KeyHash || ownToken(g) || g.Claimed == nil {
			continue
		}
		if serves, err := theServing(g); err == nil {
			return serves, nil
		}
	}

	return template.AppService, nil
}

// allowed is how many instances the owner let the app have until now, by the word
// of the CAS: a manager that says more would have its owner grant more. Of grants
// that all have ended the last one counts. An app from before there were grants may
// have as many as the CAS knows to run.
func (d *deployment) allowed(ctx context.Context, service ident.ServiceName) (int, error) {
	grants, err := d.cas.Grants(ctx, d.session)
	if err != nil {
		return 0, err
	}

	most := 0
	last := 0
	for _, g := range grants { // the newest first
		if g.App != d.granted || g.Maker != d.side.id.KeyHash || !d.claimedHere(g) {
			continue
		}

		n := g.Services[service].Instances
		if g.State == owners.GrantClaimed {
			most = max(most, n)
		} else if last == 0 && g.Claimed != nil {
			last = n // withdrawn, or ended otherwise
		}
	}
	if most = cmp.Or(most, last); most > 0 || d.blind {
		return most, nil
	}

	known, err := d.cas.Instances(ctx, d.session)
	if err != nil {
		return 0, err
	}
	for _, k := range known {
		if k.Service == service && k.State == owners.Running {
			most++
		}
	}
	return most, nil
}

// claimedHere reports whether the operator that is deployed at claimed a grant: what the
// owner granted to others is no measure for this one, whichever the manager names.
func (d *deployment) claimedHere(g owners.Grant) bool {
	return !g.ClaimedBy.IsZero() && g.ClaimedBy == d.operator && !ownToken(g)
}

// writes lists the volumes that a service of the session writes.
func writes(s *session.Session, service ident.ServiceName) []string {
	svc, ok := s.Service(service)
	if !ok {
		return nil
	}

	image, ok := s.Image(ident.ImageName(svc.ImageName))
	if !ok {
		return nil
	}

	var out []string
	for _, m := range image.Volumes {
		if m.Policy == session.RollbackProtected {
			out = append(out, m.Name)
		}
	}
	return out
}

// handIn gives the request to the manager. One that went away in the middle is
// asked again: it may have taken the code, which it takes once. After an interrupt its
// answer says whether it did.
func (d *deployment) handIn(ctx context.Context, req manager.DeployRequest) (manager.App, error) {
	deadline := time.Now().Add(d.g.wait)
	asking, done := answered(ctx)
	defer done()

	for unsure := false; ; unsure = true {
		if ctx.Err() != nil {
			d.unmake(ctx)
			return manager.App{}, ctx.Err()
		}

		app, err := d.manager.Deploy(asking, req)
		switch {
		case err == nil:
			return app, nil
		case unsure && problem.Is(err, problem.RuleCodeUsed):
			if app, err = d.taken(asking, err); err != nil {
				d.unmake(ctx)
			}
			return app, err
		case problem.Is(err, client.RuleAway) && time.Now().Before(deadline) && d.patient(ctx):
			continue
		}

		d.unmake(ctx)
		return app, err
	}
}

// taken finds the app whose deployment took our code.
func (d *deployment) taken(ctx context.Context, refusal error) (manager.App, error) {
	apps, err := d.manager.Apps(ctx)
	if err != nil {
		return manager.App{}, err
	}

	for _, a := range apps {
		if a.Deployment.Grant != nil && *a.Deployment.Grant == d.grantID {
			return a, nil
		}
	}

	return manager.App{}, refusal
}

// unmake withdraws the grant that was made for a request that came to nothing.
func (d *deployment) unmake(ctx context.Context) {
	if d.made != nil {
		d.g.withdraw(ctx, d.cas, *d.made)
	}
}

func pause(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}

// readLineIn reads the one line of standard input.
func (g *globals) readLineIn(ctx context.Context, most int64) ([]byte, error) {
	if _, person := g.terminal(); person {
		g.warnf("Paste the code and press Enter:")
	}

	line, err := ask.Line(ctx, bufio.NewReader(io.LimitReader(g.in, most)), io.Discard, "")
	if errors.Is(err, io.EOF) {
		err = nil // the line's end may be left out
	}
	return []byte(line), err
}
