package cas

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/quota"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/session"
)

const (
	// codeLife is how long a code can be claimed where its maker doesn't say, and
	// maxCodeLife at most.
	codeLife    = 24 * time.Hour
	maxCodeLife = 30 * 24 * time.Hour
	// maxGranted is the most instances or runs of one service, and maxServices how
	// many services one grant is for: a quota counts grants, not what is in them.
	maxGranted  = 100_000
	maxServices = 32
)

var appName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// MakeGrant makes the right to run a session's services, and the code by which
// an operator gets it.
func (c *CAS) MakeGrant(ctx context.Context, who Caller, req owners.NewGrant) (owners.GrantMade, error) {
	made, err := c.makeGrant(ctx, who, req)
	return made, chained(err, "Failed to grant the use of session '%s'", req.Session)
}

func (c *CAS) makeGrant(ctx context.Context, who Caller, req owners.NewGrant) (owners.GrantMade, error) {
	if err := checkAPIVersion(req.Version); err != nil {
		return owners.GrantMade{}, err
	}
	s, err := c.reading(ctx, req.Session)
	if err != nil {
		return owners.GrantMade{}, err
	}
	defer s.mu.RUnlock()
	if !s.may(who, session.OpDeploy) || who.Key.IsZero() {
		return owners.GrantMade{}, denied("deploy", string(s.name), "You have insufficient rights to grant the use of session %s", s.name)
	}

	now := c.now().UTC()
	rec, err := newGrantRecord(s, req, now)
	if err != nil {
		return owners.GrantMade{}, err
	}
	rec.Maker, rec.AsCreator, rec.From = who.Key, who.Key == s.current.Creator, who.payer().Address
	if err := c.ledger.take(rec.payer(), quota.Amounts{quota.Grants: 1}, true); err != nil {
		return owners.GrantMade{}, err
	}
	made := false
	defer func() {
		if !made {
			c.ledger.give(rec.payer(), quota.Amounts{quota.Grants: 1})
		}
	}()

	b, err := secrets.Random(32)
	if err != nil {
		return owners.GrantMade{}, err
	}
	code := owners.GrantCode{CAS: c.identity.hash, Grant: owners.GrantID(b[:16]), Secret: [16]byte(b[16:])}
	rec.Code = hashCode(code)

	g := newGrant(code.Grant, s, rec)
	row, err := g.put(rec)
	if err != nil {
		return owners.GrantMade{}, err
	}
	_, err = c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventGrantMade,
		Actor:   who.Key,
		Request: who.Request,
		Session: s.name,
		Detail:  grantDetail(g.id, rec.Services),
		Rows:    []journal.Write{row},
	})
	if err != nil {
		return owners.GrantMade{}, err
	}

	made = true
	c.grants.Store(g.id, g)
	s.joinGrant(g)
	return owners.GrantMade{Version: owners.Version, Grant: g.describe(c), Code: code.String()}, nil
}

// newGrantRecord checks what is asked for and fills in what it leaves open.
func newGrantRecord(s *sessionState, req owners.NewGrant, now time.Time) (grantRecord, error) {
	rec := grantRecord{
		Session:  s.name,
		App:      req.App,
		Services: map[ident.ServiceName]grantedService{},
		Made:     now,
		UseBy:    now.Add(codeLife),
		Provider: req.Provider,
	}

	if !appName.MatchString(req.App) {
		return rec, problem.New(problem.Invalid, problem.RuleAppName, "app name %.60q", req.App).
			Want("1 to 40 of a-z 0-9 -, beginning and ending with a letter or digit")
	}
	if len(req.Services) == 0 {
		return rec, problem.New(problem.Invalid, ruleGrantServices, "the grant names no service").
			Fix("say how many instances or runs of which services it is for")
	}
	if len(req.Services) > maxServices {
		return rec, tooManyServices(len(req.Services))
	}
	for name, svc := range req.Services {
		if err := s.checkGranted(name, svc); err != nil {
			return rec, err
		}
		rec.Services[name] = grantedService{Instances: svc.Instances, Runs: svc.Runs}
	}

	if req.UseBy != nil {
		rec.UseBy = req.UseBy.UTC()
	}
	if !rec.UseBy.After(now) || rec.UseBy.After(now.Add(maxCodeLife)) {
		return rec, problem.New(problem.Invalid, ruleUseBy, "the code is to be good until %s", rec.UseBy.Format(time.RFC3339)).
			Want("a time in the future, at most %d days from now", maxCodeLife/(24*time.Hour))
	}
	if req.Until != nil {
		rec.Until = req.Until.UTC()
		if !rec.Until.After(now) {
			return rec, problem.New(problem.Invalid, ruleUntil, "the grant is to end at %s", rec.Until.Format(time.RFC3339)).
				Want("a time in the future")
		}
	}
	return rec, nil
}

// tooManyServices refuses a grant for more services than its entry in the log has
// room for.
func tooManyServices(n int) *problem.Error {
	return problem.New(problem.Invalid, ruleGrantServices, "the grant would be for %d services", n).
		Want("at most %d", maxServices).
		Fix("make several grants, each for some of the services: cupel session submit NAME --service SERVICE=N …")
}

// checkGranted holds the numbers of one service against the session, under s.mu.
func (s *sessionState) checkGranted(name ident.ServiceName, svc owners.GrantedService) error {
	if s.plan.services[name] == nil {
		return problem.New(problem.NotFound, problem.RuleServiceUnknown, "session %q has no service %.140q", s.name, name).
			Fix("name services of the session's current version")
	}
	if min(svc.Instances, svc.Runs) != 0 || max(svc.Instances, svc.Runs) <= 0 || max(svc.Instances, svc.Runs) > maxGranted {
		return problem.New(problem.Invalid, ruleGrantNumber, "service %s: %s and %s", name, problem.Count(svc.Instances, "instance"), problem.Count(svc.Runs, "run")).
			Want("either instances or runs, from 1 to %d", maxGranted)
	}
	return nil
}

// hashCode is what the CAS keeps of a code.
func hashCode(code owners.GrantCode) ident.Digest {
	return ident.Sum(slices.Concat([]byte("cupel/grant-code/v1"), code.Grant[:], code.Secret[:]))
}

// grantDetail is what the audit log says of a grant: its id and its numbers.
func grantDetail(id owners.GrantID, services map[ident.ServiceName]grantedService) map[string]string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if svc := services[name]; svc.Runs > 0 {
			parts = append(parts, fmt.Sprintf("%s runs %d", name, svc.Runs))
		} else {
			parts = append(parts, fmt.Sprintf("%s instances %d", name, svc.Instances))
		}
	}
	return map[string]string{"grant": id.String(), "services": strings.Join(parts, ", ")}
}

// Grants lists a session's grants, the newest first.
func (c *CAS) Grants(ctx context.Context, who Caller, name ident.SessionName) (owners.Grants, error) {
	s, err := c.reading(ctx, name)
	if err != nil {
		return owners.Grants{}, chained(err, "Failed to list the grants of session '%s'", name)
	}
	defer s.mu.RUnlock()
	if !s.may(who, session.OpRead) && !s.mayDeployByName(who) {
		err := denied("read", string(s.name), "You have insufficient rights to access session %s", s.name)
		return owners.Grants{}, chained(err, "Failed to list the grants of session '%s'", name)
	}

	out := owners.Grants{Version: owners.Version, Grants: []owners.Grant{}}
	for _, g := range listed(s.allGrants(), who.Key) {
		out.Grants = append(out.Grants, g.describe(c))
	}
	slices.SortFunc(out.Grants, func(a, b owners.Grant) int {
		if c := b.Made.Compare(a.Made); c != 0 {
			return c
		}
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	return out, nil
}

// maxListed is how many grants of a session are listed at once. Where anybody may
// make some, there may be many more.
const maxListed = 1000

// listed are those grants that a caller hears of: their own first, then the newest.
func listed(all []*grant, me ident.KeyHash) []*grant {
	if len(all) <= maxListed {
		return all
	}

	type entry struct {
		g    *grant
		own  bool
		made time.Time
	}

	entries := make([]entry, 0, len(all))
	for _, g := range all {
		g.mu.Lock()
		entries = append(entries, entry{g, g.rec.Maker == me, g.rec.Made})
		g.mu.Unlock()
	}

	slices.SortFunc(entries, func(a, b entry) int {
		if a.own != b.own {
			return map[bool]int{true: -1, false: 1}[a.own]
		}
		return b.made.Compare(a.made)
	})

	out := make([]*grant, 0, maxListed)
	for _, e := range entries[:maxListed] {
		out = append(out, e.g)
	}
	return out
}

// ChangeGrant gives services of a grant another number. Instances beyond a lower
// one keep their places until they end.
func (c *CAS) ChangeGrant(ctx context.Context, who Caller, id owners.GrantID, req owners.GrantChange) (owners.Grant, error) {
	out, err := c.changeGrant(ctx, who, id, req)
	return out, chained(err, "Failed to change grant '%s'", id)
}

func (c *CAS) changeGrant(ctx context.Context, who Caller, id owners.GrantID, req owners.GrantChange) (owners.Grant, error) {
	if err := checkAPIVersion(req.Version); err != nil {
		return owners.Grant{}, err
	}

	g, s, err := c.ownersGrant(ctx, who, id)
	if err != nil {
		return owners.Grant{}, err
	}
	defer s.mu.RUnlock()

	mayRaise := s.may(who, session.OpDeploy) && !who.Key.IsZero()
	for name, svc := range req.Services {
		if err := s.checkGranted(name, svc); err != nil {
			return owners.Grant{}, err
		}
		if !mayRaise && g.raises(name, svc) {
			return owners.Grant{}, denied("deploy", string(s.name), "You have insufficient rights to grant more of service %s", name)
		}
	}

	if err := c.renumber(ctx, who, g, req); err != nil {
		return owners.Grant{}, err
	}
	return g.describe(c), nil
}

// raises reports whether a number lets more of a service run than the grant does:
// who may update but not deploy can lower numbers, and no more.
func (g *grant) raises(name ident.ServiceName, svc owners.GrantedService) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.rec.Services[name]
	return svc.Instances > was.Instances || svc.Runs > was.Runs
}

// renumber commits the new numbers.
func (c *CAS) renumber(ctx context.Context, who Caller, g *grant, req owners.GrantChange) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if why := g.over(c.now()); why != "" {
		return problem.New(problem.Conflict, problem.RuleGrantEnded, "grant %s %s", g.id, why).Fix("make a new one: cupel deploy, or cupel session submit")
	}

	next := g.rec
	next.Services = maps.Clone(next.Services)
	for name, svc := range req.Services {
		was, ok := next.Services[name]
		if ok && (was.Runs > 0) != (svc.Runs > 0) {
			return problem.New(problem.Invalid, ruleGrantNumber, "service %s changes between serving and running", name).
				Want("another number of the same kind").Fix("make a new grant")
		}
		next.Services[name] = grantedService{Instances: svc.Instances, Runs: svc.Runs, Used: was.Used}
	}

	if len(next.Services) > max(maxServices, len(g.rec.Services)) {
		return tooManyServices(len(next.Services))
	}
	row, err := g.put(next)
	if err != nil {
		return err
	}

	_, err = c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventGrantChanged,
		Actor:   who.Key,
		Request: who.Request,
		Session: g.session.name,
		Detail:  grantDetail(g.id, next.Services),
		Rows:    []journal.Write{row},
	})
	if err == nil {
		g.rec = next
	}
	return err
}

// WithdrawGrant ends a grant and the rights of all that run under it, at once.
// One that has ended stays as it is.
func (c *CAS) WithdrawGrant(ctx context.Context, who Caller, id owners.GrantID) (owners.Grant, error) {
	out, err := c.withdrawGrant(ctx, who, id)
	return out, chained(err, "Failed to withdraw grant '%s'", id)
}

func (c *CAS) withdrawGrant(ctx context.Context, who Caller, id owners.GrantID) (owners.Grant, error) {
	g, s, err := c.ownersGrant(ctx, who, id)
	if err != nil {
		return owners.Grant{}, err
	}
	s.mu.RUnlock() // who may not never asks for the lock for writing

	if s, err = c.writing(ctx, s.name); err != nil {
		return owners.Grant{}, err
	}
	defer s.mu.Unlock()

	if s.current.Hash.IsZero() {
		return owners.Grant{}, sessionUnknown(s.name)
	}
	if err := s.mayChangeGrant(who, g); err != nil {
		return owners.Grant{}, err
	}

	lost, err := c.endGrant(ctx, g, owners.EndWithdrawn, who)
	if err != nil {
		return owners.Grant{}, err
	}

	out := g.describe(c)
	out.Lost = lost
	return out, nil
}

// ownersGrant returns a grant that the caller may change, and its session locked
// for reading.
func (c *CAS) ownersGrant(ctx context.Context, who Caller, id owners.GrantID) (*grant, *sessionState, error) {
	g := c.grantNamed(id)
	if g == nil {
		return nil, nil, problem.New(problem.NotFound, problem.RuleGrantUnknown, "there is no grant %s", id).
			Fix("list them: cupel session grants SESSION")
	}

	s, err := c.reading(ctx, g.session.name)
	if err != nil {
		return nil, nil, err
	}

	if err := s.mayChangeGrant(who, g); err != nil {
		s.mu.RUnlock()
		return nil, nil, err
	}
	return g, s, nil
}

// mayChangeGrant refuses whoever may neither deploy nor update, under s.mu. Where
// anybody may deploy, a stranger has a say in the grants of their own alone.
func (s *sessionState) mayChangeGrant(who Caller, g *grant) error {
	own := s.may(who, session.OpDeploy) && !who.Key.IsZero() && who.Key == g.rec.Maker // which never changes
	if own || s.mayDeployByName(who) || s.may(who, session.OpUpdate) {
		return nil
	}
	return denied("deploy", string(s.name), "You have insufficient rights to change grant %s", g.id)
}

// mayDeployByName reports whether the access policy lets this very caller deploy,
// and not only anybody, under s.mu.
func (s *sessionState) mayDeployByName(who Caller) bool {
	return s.plan.session.Access.AsksForGrant() && s.may(who, session.OpDeploy)
}

// may asks the session's access policy, under s.mu.
func (s *sessionState) may(who Caller, op session.Operation) bool {
	return s.plan.session.Access.Allows(op, who.Key, s.current.Creator)
}

// checkAPIVersion holds a request of an owner to the version of the API.
func checkAPIVersion(v int) error {
	if v == owners.Version {
		return nil
	}
	return problem.New(problem.Invalid, ruleAPIVersion, "the request has version %d", v).Want("%d", owners.Version)
}

// sortIDs puts ids into an order that is always the same.
func sortIDs(ids []ident.InstanceID) {
	slices.SortFunc(ids, func(a, b ident.InstanceID) int { return slices.Compare(a[:], b[:]) })
}
