package manager

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
	"cupel.dev/cupel/internal/wording"
)

// Grants is a CAS as whoever holds grants meets it. Every call names the CAS
// that it is for, by address and identity, and reaches that one or nobody: then
// its error is Unavailable. Other errors are the CAS's own word. Every
// implementation passes grantstest. Methods are safe for concurrent use.
type Grants interface {
	// Claim turns a grant's code into its token; addr is where the code's CAS
	// listens for instances. The same caller may claim again and gets the same;
	// another gets a Conflict, rule grant_claimed.
	Claim(ctx context.Context, addr ident.Address, code owners.GrantCode) (owners.ClaimReply, error)
	// Gone tells that an instance is no more. It is no error if that is known.
	Gone(ctx context.Context, addr ident.Address, cas ident.KeyHash, token owners.GrantToken, instance ident.InstanceID) error
	// GiveBack ends a grant. It is no error if it has ended.
	GiveBack(ctx context.Context, addr ident.Address, cas ident.KeyHash, token owners.GrantToken) error
	// Reach answers nil if that CAS answers there.
	Reach(ctx context.Context, addr ident.Address, cas ident.KeyHash) error
}

// Grant is the right to run a session's services, as the manager holds it. The
// token is a secret: it goes to the instances and to the CAS, and nowhere else.
type Grant struct {
	ID    owners.GrantID    `json:"id"`
	Token owners.GrantToken `json:"token"`
}

// HeldGrant is a revision's grant, with the CAS that it is at.
type HeldGrant struct {
	Grant
	Revision int           `json:"revision"`
	CAS      ident.KeyHash `json:"cas"`
	CASAddr  string        `json:"cas_addr,omitempty"` // empty: the manager's own
}

// mendsItself says that what an instance met ends by itself: a place under the grant, or
// a lease, that another has for the moment. It is no failure.
func mendsItself(p *problem.Error) bool {
	return p != nil && (p.Rule == problem.RuleGrantFull || p.Rule == problem.RuleLeaseHeld)
}

// onlyOwnerMends says that only the app's owner can mend what an instance met.
func onlyOwnerMends(p *problem.Error) bool {
	return p != nil && (p.Rule == problem.RuleGrantMissing || p.Rule == problem.RuleGrantOther || p.Rule == problem.RuleGrantEnded)
}

// claim makes the request's grant this manager's. Nothing was started before, and
// nothing is kept yet: a manager that is killed here may claim again.
func (m *Manager) claim(ctx context.Context, rev *Revision, code owners.GrantCode) (owners.ClaimReply, error) {
	var none owners.ClaimReply
	if code.CAS != rev.CAS {
		return none, problem.New(problem.Conflict, problem.RuleCASOther, "the code is of another CAS, with identity %s", code.CAS).
			Want("identity %s", rev.CAS).
			Fix("name that CAS in the request (--cas-instances), or make a code at this manager's own CAS")
	}

	m.mu.Lock()
	err := m.checkUnused(code)
	m.mu.Unlock()
	if err != nil {
		return none, err
	}

	reply, err := m.claimPatiently(ctx, rev, code)
	if problem.KindOf(err) == problem.Unavailable && rev.CASAddr != "" {
		// The caller chose the address: what is to be found there is not for it
		// to learn from us.
		return none, problem.New(problem.Unavailable, problem.RuleCASUnreachable, "the CAS of that identity does not answer the manager at %.100s", rev.CASAddr).
			Fix("check --cas-instances and --cas, and that this CAS runs; then try again")
	}
	return reply, err
}

// claimPatiently asks the CAS for a grant. Our own is asked a few times: a connection that
// others crowded out is no reason to refuse a deployment.
func (m *Manager) claimPatiently(ctx context.Context, rev *Revision, code owners.GrantCode) (owners.ClaimReply, error) {
	for try := 1; ; try++ {
		reply, err := m.cfg.Grants.Claim(ctx, m.casAddr(rev.CAS, rev.CASAddr), code)
		if problem.KindOf(err) != problem.Unavailable || rev.CASAddr != "" || try == claimTries {
			return reply, err
		}

		select {
		case <-ctx.Done():
			return reply, err
		case <-time.After(claimPause):
		}
	}
}

// How often our own CAS is asked to claim a code, and how long lies between.
const (
	claimTries = 5
	claimPause = 300 * time.Millisecond
)

// checkCovers refuses a grant that doesn't allow what a request wants, and takes from
// it which volumes the service writes.
func checkCovers(reply owners.ClaimReply, rev *Revision) error {
	if reply.Session != rev.Session {
		return problem.New(problem.Denied, problem.RuleGrantOther, "the code is for session %s", reply.Session).Want("%s", rev.Session).
			Fix("deploy the session that the code was made for, or make one: cupel session submit %s", rev.Session)
	}

	serves := reply.Services[rev.Service]
	if serves.Instances < max(1, rev.Instances) {
		return problem.New(problem.Denied, ruleGrantInstances, "the grant lets %s of %s run", problem.Count(serves.Instances, "instance"), rev.Service).
			Want("%d", max(1, rev.Instances)).
			Fix("ask for fewer, or make a code for more: cupel session submit %s --instances %d", rev.Session, max(1, rev.Instances))
	}

	if reply.Services[rev.PullService].Runs < 1 {
		return problem.New(problem.Denied, ruleGrantInstances, "the grant lets %s not run", rev.PullService).
			Want("one run of it").Fix("make a code that has it: cupel session submit %s", rev.Session)
	}

	rev.Writes = slices.Clone(serves.Writes)
	return nil
}

// checkOneWriter refuses a second instance where the service writes a volume.
func checkOneWriter(rev *Revision) error {
	if len(rev.Writes) == 0 || rev.Instances <= 1 {
		return nil
	}
	return problem.New(problem.Invalid, ruleWritesVolume, "%d instances of a service that writes volume %s", rev.Instances, strings.Join(rev.Writes, ", ")).
		Want("1 instance: a volume has one writer").
		Fix("ask for --instances 1; or write update_policy: ephemeral in the session, where each instance may have a copy of its own that ends with it")
}

// casAddr is where a CAS listens for instances; empty is the manager's own.
func (m *Manager) casAddr(cas ident.KeyHash, addr string) ident.Address {
	if addr == "" && cas == m.cfg.CAS.Identity {
		return ident.Address(m.cfg.CAS.Instances)
	}
	return ident.Address(addr)
}

// held is the revision's grant with where it is; nil without one.
func (r *Revision) held() *HeldGrant {
	if r == nil || r.Grant == nil {
		return nil
	}
	return &HeldGrant{Grant: *r.Grant, Revision: r.Number, CAS: r.CAS, CASAddr: r.CASAddr}
}

// grants returns all that the app holds, each with its revision.
func (a *App) grants() []HeldGrant {
	out := slices.Clone(a.Ending)
	for _, rev := range []*Revision{a.Current, a.Next} {
		if h := rev.held(); h != nil {
			out = append(out, *h)
		}
	}
	return out
}

// lacksGrant says that the app serves under no grant although its session may ask
// for one: it was deployed before there were grants, and the CAS will refuse its
// next start.
func (a *App) lacksGrant() bool {
	return a.Current != nil && a.Current.Grant == nil && !a.Current.Ungranted && !a.Removing
}

// noteEnd takes note, once, that an attempt of the instance ended: the CAS
// hears that it is no more, and whoever looks that it kept nothing.
func (p *planner) noteEnd(a *App, r *Replica, s InstanceStatus) *Replica {
	r = p.editReplica(r)
	_, r.Recorded = replicaOf(s.ID)

	if why := dataLost(a.writingRevision(r), s); why != nil && r.Role == RoleApp {
		p.warn(a, r, managerapi.ReasonNotCommitted, "%s", why.Actual)
		if a.Rollout.active() && r.Revision != a.Rollout.Revision { // for which it was stopped
			p.editApp(a).Rollout.Warning = why
		}
	}

	if s.InstanceID.IsZero() || reportedByLauncher(s) {
		return r
	}
	for _, h := range a.grants() {
		if h.Revision == r.Revision {
			p.change.Notices = append(p.change.Notices, goneNotice(p.now, a, h, s.InstanceID, s.ID))
		}
	}
	return r
}

// reportedByLauncher says that the launcher itself saw the end and told the CAS, as far as
// can be seen from here.
func reportedByLauncher(s InstanceStatus) bool {
	return s.Phase == string(wire.Exited) && s.ExitCode < 125 && !s.OOMKilled
}

// dataLost is the problem of an end by which the app's data was not kept: the
// launcher's word, or plain where a service that writes was killed.
func dataLost(rev *Revision, s InstanceStatus) *problem.Error {
	if s.Problem != nil && s.Problem.Rule == wire.RuleNotCommitted {
		return s.Problem
	}

	if s.Phase == string(wire.Refused) && s.Problem != nil && s.Problem.Rule == problem.RuleLeaseEnded && !s.StartedAt.IsZero() {
		// It had a lease, whatever the revision that counts now may write.
		return problem.New(problem.Denied, wire.RuleNotCommitted, "what the app wrote since it started is lost: %s", wording.Reason(s.Problem)).Fix("%s", s.Problem.Mend)
	}

	if rev == nil || len(rev.Writes) == 0 || s.InstanceID.IsZero() || s.Phase == string(wire.Exited) {
		return nil
	}
	if s.Phase == string(wire.Refused) {
		switch {
		case s.StartedAt.IsZero(): // the app wrote nothing
			return nil
		case s.Problem != nil:
			return problem.New(problem.Unavailable, wire.RuleNotCommitted, "volume %s was not stored, what the app wrote since it started is lost: %s",
				strings.Join(rev.Writes, ", "), wording.Reason(s.Problem)).Fix("%s", s.Problem.Mend)
		}
	}

	if s.Phase == string(wire.Committing) {
		return problem.New(problem.Unavailable, wire.RuleNotCommitted, "it ended while it stored volume %s: what it wrote since it started is lost", strings.Join(rev.Writes, ", ")).
			Fix("look what the machine lacked: disk, memory, cupeld or the CAS ('cupel events')")
	}
	return problem.New(problem.Unavailable, wire.RuleNotCommitted, "killed before it stored volume %s: what it wrote since it started is lost", strings.Join(rev.Writes, ", ")).
		Fix("let the app end within the grace when it is told to stop")
}

// writingRevision is the instance's revision, as far as it is known what it writes: of one
// from before there were grants nobody said, and what the next one writes is taken
// for it.
func (a *App) writingRevision(r *Replica) *Revision {
	rev := a.revisionNumbered(r.Revision)
	if len(r.Writes) > 0 {
		return &Revision{Number: r.Revision, Writes: r.Writes}
	}
	if rev != nil && rev.Grant == nil && !rev.Ungranted && len(rev.Writes) == 0 && a.Next != nil {
		return a.Next
	}
	return rev
}

// revisionNumbered returns the app's revision of that number, whatever became of it.
func (a *App) revisionNumbered(number int) *Revision {
	for _, rev := range []*Revision{a.Current, a.Next, a.Lost} {
		if rev != nil && rev.Number == number {
			return rev
		}
	}
	return nil
}

// planGiveBack gives back the grants of revisions of which nothing runs any more.
func (p *planner) planGiveBack(a *App) {
	var left []HeldGrant
	for _, h := range a.Ending {
		if p.revisionRuns(a, h.Revision) {
			left = append(left, h)
			continue
		}
		p.change.Notices = append(p.change.Notices, giveBackNotice(p.now, a, h))
	}

	if len(left) != len(a.Ending) {
		p.editApp(a).Ending = left
	}
}

// revisionRuns says that an instance of the revision is there and has not ended, or may
// be.
func (p *planner) revisionRuns(a *App, revision int) bool {
	return slices.ContainsFunc(p.replicasOf(a.ID), func(r *Replica) bool {
		return r.Revision == revision && p.mayRun(r)
	})
}

// mayRun says that the instance's newest attempt, or the one before, is there and
// has not ended, or may be.
func (p *planner) mayRun(r *Replica) bool {
	for n := max(r.Attempt-1, 0); n <= r.Attempt; n++ {
		id := attemptID(r, n)
		if s, there := p.observed[id]; there && s.State != StateExited || p.busy[string(id)] {
			return true
		}
	}
	return false
}

// releaseGrant gives up the grant of a revision that no longer counts, once nothing
// of it runs.
func (a *App) releaseGrant(rev *Revision) {
	if h := rev.held(); h != nil {
		a.Ending = append(slices.Clone(a.Ending), *h)
	}
}

// askOwner tells, once, that only the owner can let the app start again.
func (p *planner) askOwner(a *App, why string) {
	if p.app(a.ID).OwnerAsked {
		return
	}
	p.editApp(a).OwnerAsked = true
	p.warn(a, nil, "owner_needed", "%s; its owner has to deploy it once: %s", why, managerapi.DeployCommand(a.Session, ident.AppRef(a.Name)))
}

// NeedOwner lists the apps that go on as they are and whose next start the CAS
// will refuse, until their owner deployed them once.
func (m *Manager) NeedOwner() []managerapi.App {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []managerapi.App
	for _, id := range slices.Sorted(maps.Keys(m.state.Apps)) {
		if a := m.state.Apps[id]; a.lacksGrant() {
			out = append(out, m.view(a))
		}
	}
	return out
}

// ownersProblem is what only the app's owner can mend; nil if there is nothing.
// Callers hold mu.
func (m *Manager) ownersProblem(a *App) *problem.Error {
	var why *problem.Error
	if a.lacksGrant() {
		why = problem.New(problem.Denied, problem.RuleGrantMissing, "revision %d runs under no grant: it goes on, but the CAS will not let it start again", a.Current.Number)
	}

	for _, r := range m.byApp[a.ID] {
		if a.Current == nil || r.Revision != a.Current.Number || !onlyOwnerMends(r.Problem) {
			continue
		}
		if s, ok := m.observed[attemptID(r, r.Attempt)]; !ok || s.State != StateRunning {
			why = problem.New(problem.Denied, r.Problem.Rule, "%s", r.Problem.Actual)
		}
	}

	if why == nil {
		return nil
	}
	return why.Fix("its owner has to deploy it once: %s", managerapi.DeployCommand(a.Session, ident.AppRef(a.Name)))
}
