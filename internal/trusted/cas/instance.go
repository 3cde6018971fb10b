package cas

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/verify/appraise"
	"cupel.dev/cupel/internal/trusted/wire"
)

const prefixInstance = "instance/"

// instance is one released copy of a service.
type instance struct {
	id      ident.InstanceID
	session *sessionState
	grant   *grant     // that it runs under; nil: the session asks for none
	mu      sync.Mutex // held over a commit that changes the instance
	rec     instanceRecord
	// reply is kept until the instance is heard of again, so that one that lost
	// the answer and asks again gets the same. Guarded by mu.
	reply  *wire.ReleaseReply
	live   atomic.Bool // rec.State is running and committed; changed by setLive
	lapsed atomic.Bool // rec.State is lapsed and committed: it may come back
	pace   pace
	seen   atomic.Pointer[time.Time] // last sign of life, on the monotonic clock
}

// instanceRecord is the row of an instance.
type instanceRecord struct {
	Session     ident.SessionName `json:"session"`
	Service     ident.ServiceName `json:"service"`
	SessionHash ident.Digest      `json:"session_hash"`
	Grant       owners.GrantID    `json:"grant,omitzero"`
	// Due is when a certificate that it has is to be renewed; zero: it has none.
	Due time.Time `json:"due,omitzero"`
	// Renewed is when it got certificates again; zero: not since its release.
	Renewed time.Time `json:"renewed,omitzero"`
	// Counted says that this run of a job was taken off its grant.
	Counted  bool            `json:"counted,omitempty"`
	Claims   evidence.Claims `json:"claims"`
	State    owners.State    `json:"state"`
	Released time.Time       `json:"released"`
	Ended    time.Time       `json:"ended,omitzero"`
	ExitCode int             `json:"exit_code,omitempty"`
	Reason   string          `json:"reason,omitempty"`
	Volumes  []mounted       `json:"volumes,omitempty"`
}

func instanceRow(id ident.InstanceID) journal.RowID {
	return prefixInstance + journal.RowID(id.String())
}

// put is the row of an instance that is to become rec.
func (in *instance) put(rec instanceRecord) (journal.Write, error) {
	plain, err := json.Marshal(rec)
	if err != nil {
		return journal.Write{}, fmt.Errorf("marshal instance: %w", err)
	}
	return journal.Write{ID: instanceRow(in.id), Plain: plain}, nil
}

// touch notes a sign of life.
func (in *instance) touch(now time.Time) { in.seen.Store(&now) }

// describe is the instance for its owner.
func (in *instance) describe() owners.Instance {
	in.mu.Lock()
	defer in.mu.Unlock()
	r := &in.rec

	out := owners.Instance{
		ID:          in.id,
		Service:     r.Service,
		Claims:      r.Claims,
		State:       r.State,
		ReleasedAt:  r.Released,
		LastSeen:    r.Released,
		ExitReason:  r.Reason,
		SessionHash: r.SessionHash,
		Grant:       r.Grant,
	}

	if t := in.seen.Load(); t != nil {
		out.LastSeen = t.UTC().Round(0)
	}
	if !r.Ended.IsZero() {
		out.EndedAt = &r.Ended
	}
	if r.State == owners.Exited {
		code := r.ExitCode
		out.ExitCode = &code
	}

	for _, g := range r.Volumes {
		out.Volumes = append(out.Volumes, owners.InstanceVolume{
			Name:       g.Name,
			ID:         g.ID,
			Access:     g.Access,
			Generation: g.Generation,
			Statement:  g.Statement,
		})
	}
	return out
}

// all returns the instances that are remembered, without those being released.
func (s *sessionState) all() []*instance {
	s.memberMu.Lock()
	defer s.memberMu.Unlock()
	out := make([]*instance, 0, len(s.members))
	for _, in := range s.members {
		out = append(out, in)
	}
	return out
}

// join has the session remember an instance.
func (s *sessionState) join(in *instance) {
	s.memberMu.Lock()
	defer s.memberMu.Unlock()
	s.members[in.id] = in
}

// leave has the session forget an instance.
func (s *sessionState) leave(id ident.InstanceID) {
	s.memberMu.Lock()
	defer s.memberMu.Unlock()
	delete(s.members, id)
}

// running reports whether the instance has rights.
func (c *CAS) running(id ident.InstanceID) bool {
	if id.IsZero() {
		return false
	}
	v, ok := c.instances.Load(id)
	return ok && v.(*instance).live.Load()
}

// loadInstances reads all instances and gives those that run a fresh grace
// period: the time in which the CAS was down does not count. A row that does not
// match the log costs that instance its rights, and no other.
func (c *CAS) loadInstances(ctx context.Context) error {
	now := c.now()
	for _, row := range c.journal.IDs(prefixInstance) {
		id, err := ident.ParseKeyHash(strings.TrimPrefix(string(row), prefixInstance))
		if err != nil {
			return fmt.Errorf("instance row %s: %w", row, err)
		}

		plain, err := c.journal.Read(ctx, row)
		if err != nil {
			if problem.KindOf(err) == problem.Unavailable {
				return err
			}
			c.log.Error("instance left out", "instance", id.Short(), "error", err)
			continue
		}

		in := &instance{id: id}
		if err := json.Unmarshal(plain, &in.rec); err != nil {
			return fmt.Errorf("instance row %s: %w", row, err)
		}

		in.session = c.state(in.rec.Session)
		in.grant = c.grantNamed(in.rec.Grant)
		c.setLive(in, in.rec.State == owners.Running)
		in.lapsed.Store(in.rec.State == owners.Lapsed)
		if in.live.Load() {
			in.touch(now)
			in.grant.keep(in.id, in.rec.Service)
		}
		in.session.join(in)
		c.instances.Store(id, in)
	}

	period := c.period() // they go by what the CAS told before
	c.instances.Range(func(_, v any) bool {
		v.(*instance).pace.tell(period)
		return true
	})
	return nil
}

// alive returns the caller's instance if it has rights, with its session locked
// for reading and itself locked.
func (c *CAS) alive(who Caller) (*instance, func(), error) {
	v, ok := c.instances.Load(who.Key)
	if !ok {
		return nil, nil, instanceUnknown("no instance has the key %s", who.Key.Short())
	}

	in := v.(*instance)
	in.session.mu.RLock()
	in.mu.Lock()
	unlock := func() { in.mu.Unlock(); in.session.mu.RUnlock() }

	if in.rec.State != owners.Running {
		unlock()
		return nil, nil, in.ended()
	}

	in.touch(c.now())
	in.reply = nil
	return in, unlock, nil
}

// ended explains why an instance has no rights any more, under in.mu.
func (in *instance) ended() error {
	p := problem.New(problem.Denied, endedRules[in.rec.State], "the instance's rights ended at %s", in.rec.Ended.Format(time.RFC3339)).
		Fix("restart the instance: it is attested afresh")

	switch in.rec.State {
	case owners.Lapsed:
		p.Expected = "a report every keep-alive period"
	case owners.Revoked:
		p.Expected = "claims that satisfy the session's current version"
	case owners.Withdrawn:
		p.Expected = "a grant that holds"
		p.Mend = "ask the session's owner for a new grant: cupel deploy, or cupel session submit"
	case owners.Gone:
		p.Expected = "an instance of which nobody said that it is no more"
	case "":
		return problem.New(problem.Unauthenticated, problem.RuleInstanceUnknown, "the instance was not released").Fix("ask for the release again")
	}
	return p
}

// KeepAlive records that the instance runs.
func (c *CAS) KeepAlive(_ context.Context, who Caller, req wire.KeepAlive) (wire.KeepAliveReply, error) {
	if err := checkVersion(req.Version); err != nil {
		return wire.KeepAliveReply{}, err
	}

	in, unlock, err := c.alive(who)
	if err != nil {
		return wire.KeepAliveReply{}, err
	}
	defer unlock()
	due := in.rec.Due

	return wire.KeepAliveReply{
		Version:          req.Version,
		KeepAliveSeconds: in.pace.tell(c.period()),
		CertificateDue:   !due.IsZero() && !c.now().Before(due),
	}, nil
}

// maxReason bounds what is kept of an exit report.
const maxReason = 200

// Exit ends the instance's rights. Reporting it again is no error.
func (c *CAS) Exit(ctx context.Context, who Caller, req wire.Exit) error {
	if err := checkVersion(req.Version); err != nil {
		return err
	}

	in, unlock, err := c.alive(who)
	if err != nil {
		if problem.From(err).Rule == problem.RuleInstanceExited {
			return nil
		}
		return err
	}
	defer unlock()

	rec := in.rec
	rec.State = owners.Exited
	rec.ExitCode = req.Code
	rec.Ended = c.now().UTC()
	rec.Reason = strings.ToValidUTF8(req.Reason[:min(len(req.Reason), maxReason)], "")
	return c.end(ctx, in, rec, journal.Change{Event: owners.EventInstanceExited, Actor: who.Key, Request: who.Request})
}

// Gone ends the rights of an instance of which the holder of its grant's token
// says that it is no more, so that nobody has to wait for its lapse. Saying it
// again is no error. What a late writer would commit is fenced by its lease.
func (c *CAS) Gone(ctx context.Context, who Caller, req owners.InstanceGone) error {
	if err := checkVersion(req.Version); err != nil {
		return err
	}
	g, err := c.holder(req.Grant)
	if err != nil {
		return err
	}

	v, ok := c.instances.Load(req.Instance)
	if !ok || v.(*instance).grant != g {
		return problem.New(problem.NotFound, problem.RuleInstanceUnknown, "no instance %s runs under grant %s", req.Instance.Short(), g.id).
			Fix("name an instance that was released under this grant")
	}

	in := v.(*instance)
	in.session.mu.RLock()
	defer in.session.mu.RUnlock()
	in.mu.Lock()
	defer in.mu.Unlock()

	if in.rec.State != owners.Running {
		return nil
	}

	rec := in.rec
	rec.State, rec.Ended = owners.Gone, c.now().UTC()
	return c.end(ctx, in, rec, journal.Change{Event: owners.EventInstanceGone, Actor: who.Key, Request: who.Request})
}

// end commits the end of an instance's rights, with in and its session locked.
func (c *CAS) end(ctx context.Context, in *instance, rec instanceRecord, ch journal.Change) error {
	for _, v := range in.leased() {
		v.mu.Lock()
		defer v.mu.Unlock()
	}
	counted, done, err := in.count(&rec)
	if err != nil {
		return err
	}
	e, err := c.ending(ctx, in, rec, ch)
	if err != nil {
		done(false)
		return err
	}

	e.change.Rows = append(e.change.Rows, counted...)
	_, err = c.journal.Commit(ctx, e.change)
	done(err == nil)
	if err != nil {
		return err
	}
	e.apply()
	return nil
}

// leased returns the volumes of which the instance was given the lease, in the
// order of names.
func (in *instance) leased() []*volume {
	var out []*volume
	for _, g := range in.rec.Volumes {
		if g.Access == owners.ReadWrite {
			out = append(out, in.session.volume(g.Name))
		}
	}
	slices.SortFunc(out, func(a, b *volume) int { return strings.Compare(a.name, b.name) })
	return out
}

// ending is a change that takes away rights, and what follows in memory.
type ending struct {
	change journal.Change
	apply  func()
	lost   []string // for people: what nobody can store any more
}

// ending makes the change by which in becomes rec and its leases end, with the
// instance and its leased volumes locked (or the session locked for writing).
func (c *CAS) ending(ctx context.Context, in *instance, rec instanceRecord, ch journal.Change) (ending, error) {
	ch.Session = in.session.name
	ch.Detail = map[string]string{"instance": in.id.String(), "service": string(rec.Service)}
	if rec.State == owners.Exited {
		ch.Detail["code"] = fmt.Sprint(rec.ExitCode)
	}
	row, err := in.put(rec)
	if err != nil {
		return ending{}, err
	}
	ch.Rows = []journal.Write{row}

	free, writes, err := c.freeLeases(ctx, in, func(string) bool { return true })
	if err != nil {
		return ending{}, err
	}
	ch.Rows = append(ch.Rows, writes...)

	apply := func() {
		in.rec, in.reply = rec, nil
		c.setLive(in, rec.State == owners.Running)
		in.lapsed.Store(rec.State == owners.Lapsed)
		in.grant.free(in.id)
		free()
	}
	return ending{change: ch, apply: apply, lost: in.lost(func(string) bool { return true })}, nil
}

// lost says what an instance that loses the leases of some volumes can't store any
// more.
func (in *instance) lost(which func(volume string) bool) []string {
	var out []string
	for _, m := range in.rec.Volumes {
		if m.Access == owners.ReadWrite && !m.Committed && which(m.Name) {
			out = append(out, fmt.Sprintf("what instance %s of %s wrote to volume %s since it started can't be stored any more", in.id.Short(), in.rec.Service, m.Name))
		}
	}
	return out
}

// lostBy collects what a change loses, each once.
func lostBy(ends []ending) []string {
	var out []string
	for _, e := range ends {
		out = append(out, e.lost...)
	}
	slices.Sort(out)
	return out
}

// freeLeases makes the rows of those volumes that in holds and that end says.
func (c *CAS) freeLeases(ctx context.Context, in *instance, end func(volume string) bool) (apply func(), writes []journal.Write, err error) {
	var freed []*volume
	for _, v := range in.leased() {
		if err := v.load(ctx, c.journal); err != nil {
			return nil, nil, err
		}
		if v.rec.Holder != in.id || !end(v.name) {
			continue
		}

		rec := v.rec
		rec.Holder = ident.InstanceID{}
		w, err := v.put(rec)
		if err != nil {
			return nil, nil, err
		}
		writes = append(writes, w)
		freed = append(freed, v)
	}

	return func() {
		for _, v := range freed {
			v.rec.Holder = ident.InstanceID{}
		}
	}, writes, nil
}

// excluded works out what a new version takes away, under s.mu held for writing:
// instances whose claims don't satisfy it, and leases on volumes that their
// service may no longer write. Instances of the withdrawn grants end with those.
func (c *CAS) excluded(ctx context.Context, s *sessionState, p *plan, withdrawn map[*grant]bool, now time.Time) ([]ending, error) {
	var out []ending
	for _, in := range s.all() {
		if in.rec.State != owners.Running || withdrawn[in.grant] {
			continue
		}

		sp := p.services[in.rec.Service]
		if !c.stillSatisfies(sp, in.rec.Claims) {
			rec := in.rec
			rec.State, rec.Ended = owners.Revoked, now
			e, err := c.ending(ctx, in, rec, journal.Change{Event: owners.EventInstanceRevoked})
			if err != nil {
				return nil, err
			}
			out = append(out, e)
			continue
		}

		dropped := func(volume string) bool {
			return !slices.ContainsFunc(sp.mounts, func(m session.VolumeMount) bool {
				return m.Name == volume && m.Policy == session.RollbackProtected
			})
		}
		apply, writes, err := c.freeLeases(ctx, in, dropped)
		if err != nil {
			return nil, err
		}
		if len(writes) > 0 {
			out = append(out, ending{
				change: journal.Change{
					Event:   owners.EventLeaseEnded,
					Session: s.name,
					Rows:    writes,
					Detail:  map[string]string{"instance": in.id.String(), "service": string(in.rec.Service)},
				},
				apply: apply,
				lost:  in.lost(dropped),
			})
		}
	}
	return out, nil
}

// stillSatisfies reports whether what an instance proved when it was released is
// enough for a service as it is now; nil: it is no more.
func (c *CAS) stillSatisfies(sp *servicePlan, claims evidence.Claims) bool {
	if sp == nil {
		return false
	}
	if !sp.attested {
		return true
	}
	if claims.Type == "" { // released under `mode: none`
		return false
	}
	policy := sp.policy
	policy.ReportData, policy.LaunchBinding = &claims.ReportData, &claims.LaunchBinding
	d, err := appraise.Appraise(policy, claims)
	return err == nil && d.Accepted
}
