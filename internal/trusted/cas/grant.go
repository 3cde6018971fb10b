package cas

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/quota"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

const prefixGrant = "grant/"

// grant is the right to run so many copies of a session's services. Its methods
// that a release needs may be called on nil, which is no grant at all: then
// nothing is counted.
type grant struct {
	id      owners.GrantID
	session *sessionState

	// mu guards what follows, and is held over a commit that changes rec. It is
	// taken last: after the session's, the instance's and the volumes'.
	mu  sync.Mutex
	rec grantRecord
	// places are the instances with rights and those that are being released;
	// taken counts them by service.
	places map[ident.InstanceID]ident.ServiceName
	taken  map[ident.ServiceName]int
}

// newGrant is a grant of which nobody has a place yet.
func newGrant(id owners.GrantID, s *sessionState, rec grantRecord) *grant {
	return &grant{
		id:      id,
		session: s,
		rec:     rec,
		places:  map[ident.InstanceID]ident.ServiceName{},
		taken:   map[ident.ServiceName]int{},
	}
}

// grantRecord is the row of a grant. Neither code nor token can be had from it.
type grantRecord struct {
	Session   ident.SessionName                    `json:"session"`
	App       string                               `json:"app"`
	Services  map[ident.ServiceName]grantedService `json:"services"`
	Maker     ident.KeyHash                        `json:"maker"`
	AsCreator bool                                 `json:"as_creator,omitempty"` // the maker was the session's CREATOR
	From      netip.Addr                           `json:"from,omitzero"`        // where the maker asked from
	Made      time.Time                            `json:"made"`
	UseBy     time.Time                            `json:"use_by"`
	Until     time.Time                            `json:"until,omitzero"`
	Provider  ident.KeyHash                        `json:"provider,omitzero"`
	Code      ident.Digest                         `json:"code"` // of the code's secret
	ClaimedBy ident.KeyHash                        `json:"claimed_by,omitzero"`
	Claimed   time.Time                            `json:"claimed,omitzero"`
	Ended     time.Time                            `json:"ended,omitzero"`
	Reason    string                               `json:"reason,omitempty"`
}

// grantedService is one service of a grant; Used counts the runs that ended well.
type grantedService struct {
	Instances int `json:"instances,omitempty"`
	Runs      int `json:"runs,omitempty"`
	Used      int `json:"used,omitempty"`
}

// payer is whom the grant is counted to for as long as it has not ended.
func (r *grantRecord) payer() payer { return payer{Key: r.Maker, Address: r.From} }

func grantRow(id owners.GrantID) journal.RowID { return prefixGrant + journal.RowID(id.String()) }

// put is the row of a grant that is to become rec.
func (g *grant) put(rec grantRecord) (journal.Write, error) {
	plain, err := json.Marshal(rec)
	if err != nil {
		return journal.Write{}, fmt.Errorf("marshal grant: %w", err)
	}
	return journal.Write{ID: grantRow(g.id), Plain: plain}, nil
}

// name is the grant's id, zero for none.
func (g *grant) name() owners.GrantID {
	if g == nil {
		return owners.GrantID{}
	}
	return g.id
}

// job reports whether the grant lets the service run, rather than serve.
func (g *grant) job(service ident.ServiceName) bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rec.Services[service].Runs > 0
}

// keep counts an instance that has rights already.
func (g *grant) keep(id ident.InstanceID, service ident.ServiceName) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.take(id, service)
}

// take notes that an instance has a place, under g.mu.
func (g *grant) take(id ident.InstanceID, service ident.ServiceName) {
	if _, has := g.places[id]; !has {
		g.places[id] = service
		g.taken[service]++
	}
}

// free gives an instance's place back. One that has none is no error.
func (g *grant) free(id ident.InstanceID) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if service, has := g.places[id]; has {
		delete(g.places, id)
		g.taken[service]--
	}
}

// over is why the grant holds no more, under g.mu; empty while it holds.
func (g *grant) over(now time.Time) string {
	switch {
	case !g.rec.Ended.IsZero():
		return fmt.Sprintf("ended at %s (%s)", g.rec.Ended.Format(time.RFC3339), g.rec.Reason)
	case !g.rec.Until.IsZero() && !now.Before(g.rec.Until):
		return fmt.Sprintf("ended at %s, as it was made", g.rec.Until.Format(time.RFC3339))
	}
	return ""
}

// grantNamed returns a grant that is remembered, or nil.
func (c *CAS) grantNamed(id owners.GrantID) *grant {
	v, ok := c.grants.Load(id)
	if !ok {
		return nil
	}
	return v.(*grant)
}

// token is what the key that claimed a grant got, and gets again whenever it
// asks: it is computed, and kept nowhere.
func (c *CAS) token(id owners.GrantID, claimedBy ident.KeyHash) owners.GrantToken {
	mac := hmac.New(sha256.New, c.identity.grantKey)
	mac.Write(id[:])
	mac.Write(claimedBy[:])
	return owners.NewGrantToken(id, [32]byte(mac.Sum(nil)))
}

// holder returns the grant of a token that is the CAS's own word, whether the
// grant holds or has ended.
func (c *CAS) holder(token owners.GrantToken) (*grant, error) {
	id, _, ok := token.Split()
	g := c.grantNamed(id)
	if !ok || g == nil {
		return nil, grantOther("the token is none of this CAS's")
	}

	g.mu.Lock()
	claimedBy := g.rec.ClaimedBy
	g.mu.Unlock()

	if claimedBy.IsZero() || !token.Equal(c.token(id, claimedBy)) {
		return nil, grantOther("the token is none of this CAS's")
	}
	return g, nil
}

// grantOther says that a token is for something else.
func grantOther(format string, args ...any) *problem.Error {
	return problem.New(problem.Denied, problem.RuleGrantOther, format, args...).
		Want("the token of a grant for this service of this session, made at this CAS").
		Fix("let the session's owner grant it: cupel deploy, or cupel session submit")
}

// grantOf holds a release's token against session and service, under s.mu held
// for reading and before evidence is looked at. It is nil where the session asks
// for no grant and none is presented.
func (c *CAS) grantOf(s *sessionState, req *wire.ReleaseRequest, now time.Time) (*grant, error) {
	if req.Grant.IsZero() {
		if !s.plan.session.Access.AsksForGrant() {
			return nil, nil
		}
		return nil, problem.New(problem.Denied, problem.RuleGrantMissing, "the instance presents no grant").
			Want("the token of a grant that the session's owner made").
			Fix("let the owner deploy it anew (cupel deploy %s), or submit it (cupel session submit %s)", s.name, s.name)
	}

	g, err := c.holder(req.Grant)
	if err != nil {
		return nil, err
	}

	g.mu.Lock()
	defer g.mu.Unlock()

	if g.session != s {
		return nil, grantOther("grant %s is for another session", g.id)
	}
	if _, ok := g.rec.Services[req.Service]; !ok {
		return nil, grantOther("grant %s is for other services than %q", g.id, req.Service)
	}
	if why := g.over(now); why != "" {
		return nil, problem.New(problem.Denied, problem.RuleGrantEnded, "grant %s %s", g.id, why).
			Want("a grant that holds").
			Fix("ask the session's owner for a new one: cupel deploy, or cupel session submit")
	}
	return g, nil
}

// takePlace reserves one of the grant's places for in, or says who has them. A
// reservation counts from now on: the row that makes it last is committed by the
// caller, who frees the place if that fails. A run that was counted already, and
// whose instance comes back after a silence, is not held against itself.
func (c *CAS) takePlace(in *instance, service ident.ServiceName) error {
	g := in.grant
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()

	granted := g.rec.Services[service]
	taken := g.taken[service]
	if in.rec.Counted {
		granted.Used--
	}

	switch {
	case granted.Runs > 0 && granted.Used >= granted.Runs:
		return problem.New(problem.Conflict, problem.RuleGrantUsed, "%s ran %d of %d times under grant %s", service, granted.Used, granted.Runs, g.id).
			Want("a run that is not used yet").
			Fix("it needs no other run; for a new one, ask the session's owner: cupel deploy, or cupel session submit")
	case granted.Runs > 0 && granted.Used+taken >= granted.Runs:
		return c.grantFull(g, service, granted.Runs-granted.Used)
	case granted.Runs == 0 && taken >= granted.Instances:
		return c.grantFull(g, service, granted.Instances)
	}
	g.take(in.id, service)
	return nil
}

// grantFull names some of those who have the places, and when the longest silent
// of them lapses; under g.mu.
func (c *CAS) grantFull(g *grant, service ident.ServiceName, places int) error {
	const named = 5
	now := c.now()

	var who []string
	lapse := time.Duration(-1)
	for id, of := range g.places {
		v, ok := c.instances.Load(id)
		if of != service || !ok {
			continue
		}
		in := v.(*instance)
		seen := in.seen.Load()
		if seen == nil {
			continue
		}
		silent := now.Sub(*seen)
		if left := c.patience(in) - c.silence(in, now); lapse < 0 || left < lapse {
			lapse = max(left, 0)
		}
		if len(who) < named {
			who = append(who, fmt.Sprintf("%s heard of %s ago", id.Short(), silent.Round(time.Second)))
		}
	}
	slices.Sort(who)
	if more := g.taken[service] - len(who); more > 0 {
		who = append(who, fmt.Sprintf("%d more", more))
	}

	p := problem.New(problem.Unavailable, problem.RuleGrantFull, "all places of %s under grant %s are taken: %s", service, g.id, strings.Join(who, ", ")).
		Want("at most %s with rights", problem.Count(places, "instance")).
		Fix("wait until one ended; for more, let the session's owner raise the number: cupel session grants")
	if lapse >= 0 {
		p.Actual += fmt.Sprintf("; if it stays silent, the first lapses in %s", lapse.Round(time.Second))
	}
	return p
}

// committedAll reports whether the instance committed every volume that it may
// write: half a job is no run.
func (r *instanceRecord) committedAll() bool {
	return !slices.ContainsFunc(r.Volumes, func(m mounted) bool { return m.Access == owners.ReadWrite && !m.Committed })
}

// count takes a run off the grant of a job that is about to become rec: one that
// ended with 0, or that committed its volumes. done, which is always called, tells
// whether the rows were committed.
func (in *instance) count(rec *instanceRecord) (rows []journal.Write, done func(committed bool), err error) {
	g := in.grant
	well := rec.State == owners.Running && rec.committedAll() || rec.State == owners.Exited && rec.ExitCode == 0
	if !well || rec.Counted || !g.job(rec.Service) {
		return nil, func(bool) {}, nil
	}

	g.mu.Lock()
	next := g.rec
	next.Services = maps.Clone(next.Services)
	granted := next.Services[rec.Service]
	granted.Used++
	next.Services[rec.Service] = granted
	row, err := g.put(next)
	if err != nil {
		g.mu.Unlock()
		return nil, nil, err
	}

	rec.Counted = true
	return []journal.Write{row}, func(committed bool) {
		if committed {
			g.rec = next
		}
		g.mu.Unlock()
	}, nil
}

// loadGrants reads all grants. A row that does not match the log costs that grant
// its use, and no other.
func (c *CAS) loadGrants(ctx context.Context) error {
	for _, row := range c.journal.IDs(prefixGrant) {
		id, err := owners.ParseGrantID(strings.TrimPrefix(string(row), prefixGrant))
		if err != nil {
			return fmt.Errorf("grant row %s: %w", row, err)
		}
		plain, err := c.journal.Read(ctx, row)
		if err != nil {
			if problem.KindOf(err) == problem.Unavailable {
				return err
			}
			c.log.Error("grant left out", "grant", id, "error", err)
			continue
		}
		var rec grantRecord
		if err := json.Unmarshal(plain, &rec); err != nil {
			return fmt.Errorf("grant row %s: %w", row, err)
		}
		g := newGrant(id, c.state(rec.Session), rec)
		g.session.joinGrant(g)
		if rec.Ended.IsZero() {
			c.ledger.count(rec.payer(), quota.Amounts{quota.Grants: 1})
		}
		c.grants.Store(id, g)
	}
	return nil
}

// joinGrant has the session remember a grant.
func (s *sessionState) joinGrant(g *grant) {
	s.memberMu.Lock()
	defer s.memberMu.Unlock()
	s.grants[g.id] = g
}

// allGrants returns the session's grants that are remembered.
func (s *sessionState) allGrants() []*grant {
	s.memberMu.Lock()
	defer s.memberMu.Unlock()
	out := make([]*grant, 0, len(s.grants))
	for _, g := range s.grants {
		out = append(out, g)
	}
	return out
}

// describe is the grant for those who may see it. Places are those of instances
// with rights, not of releases under way.
func (g *grant) describe(c *CAS) owners.Grant {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &g.rec
	out := owners.Grant{
		ID:        g.id,
		Session:   r.Session,
		App:       r.App,
		Services:  map[ident.ServiceName]owners.GrantedService{},
		State:     owners.GrantOpen,
		Maker:     r.Maker,
		Made:      r.Made,
		UseBy:     r.UseBy,
		Provider:  r.Provider,
		ClaimedBy: r.ClaimedBy,
		EndReason: r.Reason,
		Places:    map[ident.ServiceName]owners.Places{},
	}

	if !r.Until.IsZero() {
		until := r.Until
		out.Until = &until
	}
	if !r.Claimed.IsZero() {
		claimed := r.Claimed
		out.State, out.Claimed = owners.GrantClaimed, &claimed
	}
	if !r.Ended.IsZero() {
		ended := r.Ended
		out.State, out.Ended = owners.GrantEnded, &ended
	}

	for name, svc := range r.Services {
		out.Services[name] = owners.GrantedService{Instances: svc.Instances, Runs: svc.Runs}
		places := owners.Places{Used: svc.Used}
		for id, of := range g.places {
			if of == name && c.running(id) {
				places.Instances = append(places.Instances, id)
			}
		}
		sortIDs(places.Instances)
		out.Places[name] = places
	}
	return out
}

// writes lists the volumes of which the service takes the lease.
func (p *plan) writes(service ident.ServiceName) []string {
	sp := p.services[service]
	if sp == nil {
		return nil
	}
	var out []string
	for _, m := range sp.mounts {
		if m.Policy == session.RollbackProtected {
			out = append(out, m.Name)
		}
	}
	return out
}
