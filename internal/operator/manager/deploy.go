package manager

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/launch"
)

// maxInstances is how many instances one app has at most. It bounds what a slip of the
// finger asks for.
const maxInstances = 100

const (
	defaultContainerPort = 8080
	defaultMemory        = 256 << 20
	defaultService       = "client-app"
	defaultPullService   = "pull_repo"
)

// Deploy makes an app of a session, or updates it. It answers when the wish is
// durable; the app's Deployment tells how it goes. The app belongs to the key
// that made the grant, whoever hands its code in.
func (m *Manager) Deploy(ctx context.Context, caller ident.KeyHash, req managerapi.DeployRequest) (managerapi.App, error) {
	rev, err := m.revisionOf(ctx, req)
	if err != nil {
		return managerapi.App{}, err
	}
	if m.cfg.Room != nil { // before the code is used up
		if err := m.cfg.Room(); err != nil {
			return managerapi.App{}, err
		}
	}

	right, err := m.rightTo(ctx, caller, rev, req)
	if err != nil {
		return managerapi.App{}, m.refuse(ctx, caller, rev, right, err)
	}
	if err := m.checkListed(right.owner); err != nil {
		return managerapi.App{}, m.refuse(ctx, caller, rev, right, err)
	}

	app, err := m.accept(ctx, rev, right, req)
	if err != nil {
		return managerapi.App{}, m.refuse(ctx, caller, rev, right, err)
	}
	return app, nil
}

// accept makes a request that there is a right to the app's next revision.
func (m *Manager) accept(ctx context.Context, rev *Revision, right right, req managerapi.DeployRequest) (managerapi.App, error) {
	m.mu.Lock()
	defer m.mu.Unlock()

	a, err := m.appFor(right, rev.Session, req)
	if err != nil {
		return managerapi.App{}, err
	}

	rev.fillIn(a.lastTried(), right.instances)
	if err := m.checkRight(rev, right); err != nil {
		return managerapi.App{}, err
	}

	if rev.Port, err = m.choosePort(a, rev.Port); err != nil {
		return managerapi.App{}, err
	}
	if err := m.checkFits(a, rev); err != nil {
		return managerapi.App{}, err
	}
	if err := m.checkKey(a, rev); err != nil {
		return managerapi.App{}, err
	}
	warning, err := m.checkMemory(a, rev)
	if err != nil {
		return managerapi.App{}, err
	}

	change, err := m.makeNext(a, rev, right)
	if err != nil {
		return managerapi.App{}, err
	}
	if warning != nil {
		a.Rollout.Warning = warning
		change.Events = append(change.Events, newWarning(m.cfg.Now(), a, nil, string(warning.Rule), warning.Actual+"; "+warning.Expected))
	}

	if err := m.commit(ctx, change); err != nil {
		return managerapi.App{}, err
	}

	// A new request deserves a new try.
	for _, ref := range []ident.ImageRef{rev.Image, rev.PullImage} {
		if st := m.images[ref]; !st.ready {
			delete(m.images, ref)
		}
	}
	delete(m.balance.failed, rev.Port)

	m.poke()
	return m.view(a), nil
}

// right is who may have a request carried out, and how much of it.
type right struct {
	owner     ident.KeyHash // whose the app is
	code      owners.GrantCode
	app       string // what the grant calls it; empty: none
	instances int    // that the grant lets run; 0: nobody counts
	unusable  bool   // the grant lets none of the services run that a deployment needs
}

// rightTo finds out what a request may do, from its code. Once that is claimed the
// revision has its grant, also where the request is refused.
func (m *Manager) rightTo(ctx context.Context, caller ident.KeyHash, rev *Revision, req managerapi.DeployRequest) (right, error) {
	if req.Code == "" && !req.Ungranted {
		return right{}, problem.New(problem.Denied, problem.RuleGrantMissing, "a request to run session %s without a grant's code", rev.Session).
			Want("a code from the session's owner").
			Fix("owner: cupel deploy %s makes one and hands it in; for somebody else: cupel session submit %s, and cupel deploy --code @FILE", rev.Session, rev.Session)
	}

	if req.Code == "" {
		rev.Ungranted = true
		rev.Writes = req.Writes
		got := right{owner: caller}
		m.chooseServices(rev, got, req, nil)
		return got, nil
	}

	code, err := owners.ParseGrantCode(req.Code)
	if err != nil {
		return right{}, err
	}
	reply, err := m.claim(ctx, rev, code)
	if err != nil {
		return right{}, err
	}

	rev.Grant = &Grant{ID: reply.Grant, Token: reply.Token}
	got := right{
		owner:    reply.Maker,
		code:     code,
		app:      reply.App,
		unusable: !deployable(reply.Services),
	}
	if !managerapi.ValidName(got.app) { // of a CAS that nobody knows
		got.app = ""
	}

	if rev.CAS != m.cfg.CAS.Identity && reply.Maker != caller {
		// That CAS is whoever the caller says that it is: it could name anybody.
		got.owner = caller
		return got, problem.New(problem.Denied, ruleNotMaker, "the code is of a CAS that isn't this manager's own, which says that key %s made it", reply.Maker.Short()).
			Want("the maker's own key on this connection").
			Fix("let the owner who made the code hand it in: cupel deploy --code @FILE")
	}

	m.chooseServices(rev, got, req, reply.Services)
	got.instances = reply.Services[rev.Service].Instances
	return got, checkCovers(reply, rev)
}

// chooseServices fills in which services a request is about where it doesn't say:
// those that the app has, else the one that the grant lets serve, else the usual
// ones.
func (m *Manager) chooseServices(rev *Revision, right right, req managerapi.DeployRequest, granted map[ident.ServiceName]owners.GrantedService) {
	m.mu.Lock()
	defer m.mu.Unlock()

	was := &Revision{}
	name := cmp.Or(req.Name, right.app)
	if a := m.sameApp(right.owner, rev.Session, name, name != ""); a != nil && a.lastTried() != nil {
		was = a.lastTried()
	}

	var serve []ident.ServiceName
	for s, g := range granted {
		if g.Instances > 0 && g.Runs == 0 {
			serve = append(serve, s)
		}
	}

	if len(serve) == 1 && (was.Service == "" || granted[was.Service].Instances == 0) {
		rev.Service = cmp.Or(rev.Service, serve[0])
	}
	rev.Service = cmp.Or(rev.Service, was.Service, defaultService)
	rev.PullService = cmp.Or(rev.PullService, was.PullService, defaultPullService)
}

// sameApp finds the key's app of a session: the one of that name, if one is given.
// Several apps may run one session: without a name the oldest is meant. Callers
// hold mu.
func (m *Manager) sameApp(owner ident.KeyHash, session ident.SessionName, name string, given bool) *App {
	var same *App
	for _, a := range m.state.Apps {
		if a.Owner != owner || a.Session != session || given && a.Name != name {
			continue
		}
		if same == nil || a.CreatedAt.Before(same.CreatedAt) || a.CreatedAt.Equal(same.CreatedAt) && a.ID < same.ID {
			same = a
		}
	}
	return same
}

// deployable reports whether a grant lets something serve and something run: else no
// request can be carried out under it.
func deployable(services map[ident.ServiceName]owners.GrantedService) bool {
	serves, runs := false, false
	for _, s := range services {
		serves, runs = serves || s.Instances > 0, runs || s.Runs > 0
	}
	return serves && runs
}

// checkRight checks what is certain only when the request is complete. Callers
// hold mu.
func (m *Manager) checkRight(rev *Revision, right right) error {
	if rev.Grant != nil {
		if err := m.checkUnused(right.code); err != nil {
			return err // by a request that came at the same time
		}
		if rev.Instances > right.instances {
			return problem.New(problem.Denied, ruleGrantInstances, "the grant lets %s of %s run, and the app has %d", problem.Count(right.instances, "instance"), rev.Service, rev.Instances).
				Fix("ask for fewer with --instances, or make a code for more: cupel session submit %s --instances %d", rev.Session, rev.Instances)
		}
	}
	return checkOneWriter(rev)
}

// makeNext makes a revision the app's next one. A deployment that it replaces gives
// its grant back when nothing of it runs any more. Callers hold mu.
func (m *Manager) makeNext(a *App, rev *Revision, right right) (Change, error) {
	now := m.cfg.Now()
	c := Change{Apps: []*App{a}}
	if a.Next != nil { // what runs of it may have something to store
		a.releaseGrant(a.Next)
	}

	a.Last++
	rev.Number = a.Last
	a.Next = rev
	a.Lost = nil
	a.Rollout = Rollout{
		Revision:  rev.Number,
		Phase:     PhaseImages,
		Deadline:  now.Add(m.limits.Deadline),
		StoppedAt: a.Rollout.StoppedAt, // as long as nothing serves again
	}

	message := fmt.Sprintf("revision %d: %s of %s on port %d, memory %s", rev.Number, problem.Count(rev.Instances, "instance"), rev.Runtime, rev.Port, managerapi.FormatMemory(rev.Memory))
	if rev.Grant != nil {
		id := rev.Grant.ID
		a.Rollout.Grant = &id
		message += ", under grant " + id.Short()
		c.Codes = append(c.Codes, &UsedCode{Grant: id, Code: digestOf(right.code), App: a.Name, Used: now})
		var err error
		if c.DeleteNotices, err = m.takeBack(a, rev.held()); err != nil {
			return c, err
		}
		for _, n := range m.giveBackNow(a, right.app, now) {
			if !slices.Contains(c.DeleteNotices, n.ID) {
				c.Notices = append(c.Notices, n)
			}
		}
	}

	c.Events = append(c.Events, newEvent(now, a, nil, "deploy_requested", message))
	return c, nil
}

// revisionOf checks a request and fills in what it leaves open.
func (m *Manager) revisionOf(ctx context.Context, req managerapi.DeployRequest) (*Revision, error) {
	bad := func(rule problem.Rule, format string, args ...any) *problem.Error {
		return problem.New(problem.Invalid, rule, format, args...)
	}
	if req.Version != managerapi.Version {
		return nil, bad(ruleVersion, "request version %d", req.Version).Want("%d", managerapi.Version)
	}

	session, err := ident.ParseSessionName(string(req.Session))
	if err != nil {
		return nil, bad(ruleSession, "%w", err)
	}
	if req.Instances < 0 || req.Instances > maxInstances {
		return nil, bad(problem.RuleInstances, "%s", problem.Count(req.Instances, "instance")).Want("1 to %d of one app", maxInstances).Fix("give another --instances; where more are needed, deploy several apps (--name)")
	}
	if req.Memory != 0 && (req.Memory < managerapi.MinMemory || req.Memory > managerapi.MaxMemory) {
		return nil, bad(problem.RuleMemory, "%d bytes", req.Memory).
			Want("a size from %s to %s", managerapi.FormatMemory(managerapi.MinMemory), managerapi.FormatMemory(managerapi.MaxMemory)).
			Fix("give a whole number and a unit, like 256M or 1Gi")
	}

	rev := &Revision{
		Session:       session,
		Runtime:       req.Runtime,
		Service:       req.Service,
		PullService:   req.PullService,
		Instances:     req.Instances,
		Memory:        req.Memory,
		Port:          req.Port,
		ContainerPort: req.ContainerPort,
		CAS:           m.cfg.CAS.Identity,
		Profile:       launch.Newest,
		Launcher:      m.cfg.Launcher,
	}

	for _, s := range []ident.ServiceName{rev.Service, rev.PullService} {
		if _, err := ident.ParseServiceName(string(s)); s != "" && err != nil {
			return nil, bad(problem.RuleService, "%w", err)
		}
	}
	if req.CAS != nil {
		rev.CAS = req.CAS.Identity
		rev.CASAddr = req.CAS.Instances
		if rev.CAS == m.cfg.CAS.Identity {
			rev.CASAddr = "" // ours, however it was called: instances know the way
		}
	}

	app, err := m.cfg.Catalog.Runtime(ctx, req.Runtime)
	if err != nil {
		return nil, err
	}
	puller, err := m.cfg.Catalog.Runtime(ctx, PullerRuntime)
	rev.Image = ident.ImageRef(app.Image)
	rev.PullImage = ident.ImageRef(puller.Image)
	return rev, err
}

// fillIn fills in what a request left open: as the app has it, else as the grant
// has it (0: there is none), else the defaults.
func (r *Revision) fillIn(was *Revision, granted int) {
	if was == nil {
		was = &Revision{Instances: min(max(1, granted), maxInstances), Memory: defaultMemory, ContainerPort: defaultContainerPort}
	}
	if r.Instances == 0 {
		r.Instances = max(1, was.Instances)
	}
	if r.Memory == 0 {
		r.Memory = was.Memory
	}
	if r.ContainerPort == 0 {
		r.ContainerPort = was.ContainerPort
	}
}

// appFor returns a copy of the app that the request updates, or a new one.
// Callers hold mu.
func (m *Manager) appFor(right right, session ident.SessionName, req managerapi.DeployRequest) (*App, error) {
	name, given := req.Name, req.Name != ""
	if !given {
		name = managerapi.AppName(session)
	}

	if given && right.app != "" && right.app != name && right.code.CAS == m.cfg.CAS.Identity {
		return nil, problem.New(problem.Conflict, ruleGrantApp, "the code is for an app that is called %q", right.app).
			Want("%q", name).
			Fix("leave --name out, or let the owner make a code with --name %s", name)
	}
	if !given && right.app != "" && right.app != name {
		name, given = right.app, true // the owner gave it a name of its own
	}

	if !managerapi.ValidName(name) {
		return nil, problem.New(problem.Invalid, problem.RuleAppName, "app name %.100q", name).
			Want("1 to 40 of a-z 0-9 -, beginning and ending with a letter or digit")
	}

	taken := map[string]bool{}
	for _, a := range m.state.Apps {
		if a.Owner == right.owner {
			taken[a.Name] = true
		}
	}

	if same := m.sameApp(right.owner, session, name, given); same != nil {
		if same.Removing {
			return nil, problem.New(problem.Conflict, ruleAppRemoving, "app %q is being removed", same.Name).Fix("try again in a moment")
		}
		c := *same
		return &c, nil
	}

	if given && taken[name] {
		return nil, problem.New(problem.Conflict, ruleAppNameTaken, "another app of the same key is called %q", name).Fix("give another --name")
	}
	for n, base := 2, name; taken[name]; n++ {
		name = fmt.Sprintf("%.36s-%d", base, n)
	}

	return &App{
		ID:        m.cfg.NewID("app"),
		Name:      name,
		Owner:     right.owner,
		Session:   session,
		CreatedAt: m.cfg.Now(),
	}, nil
}

// lastTried is the revision that serves, or else the one that was to and failed.
func (a *App) lastTried() *Revision {
	if a.Current != nil {
		return a.Current
	}
	return a.Lost
}

// newestRevision is the one that the app's owner asked for last, of those that
// still count.
func newestRevision(a *App) *Revision {
	if a.Next != nil {
		return a.Next
	}
	return a.Current
}

// choosePort checks the port that was asked for, or finds one. Callers hold mu.
func (m *Manager) choosePort(a *App, port uint16) (uint16, error) {
	own := map[uint16]bool{}
	others := map[uint16]bool{}
	for _, b := range m.state.Apps {
		for _, rev := range []*Revision{b.Current, b.Next} {
			if rev != nil && b.ID == a.ID {
				own[rev.Port] = true
			} else if rev != nil {
				others[rev.Port] = true
			}
		}
	}

	free := func(port uint16) error {
		switch {
		case others[port]:
			return fmt.Errorf("another app has it")
		case own[port]:
			return nil // ours since the last deployment
		}
		return m.cfg.PortFree(port)
	}

	if port != 0 {
		if err := free(port); err != nil {
			return 0, portTaken(port, err)
		}
		return port, nil
	}
	if a.Current != nil {
		return a.Current.Port, nil
	}
	if was := a.lastTried(); was != nil && free(was.Port) == nil {
		return was.Port, nil
	}

	for p := int(m.cfg.FirstPort); p <= 65535; p++ {
		if free(uint16(p)) == nil {
			return uint16(p), nil
		}
	}
	return 0, problem.New(problem.Unavailable, problem.RulePortTaken, "no free port from %d up", m.cfg.FirstPort)
}
