package manager

import (
	"maps"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/wording"
)

// Notice is something that a CAS has to be told, until it was.
type Notice struct {
	ID       string            `json:"id"`
	CAS      ident.KeyHash     `json:"cas"`
	CASAddr  string            `json:"cas_addr,omitempty"` // empty: the manager's own
	Grant    owners.GrantID    `json:"grant"`
	Token    owners.GrantToken `json:"token"`
	Instance ident.InstanceID  `json:"instance,omitzero"` // that is no more; zero: the grant is given back
	Attempt  ident.AttemptID   `json:"backend,omitempty"` // told only when this attempt doesn't run (any more)
	Since    time.Time         `json:"since"`             // from when on
	AppID    string            `json:"app_id"`
	App      string            `json:"app"`
	Owner    ident.KeyHash     `json:"owner"`
}

// giveBackNotice asks for a grant to be given back.
func giveBackNotice(now time.Time, a *App, h HeldGrant) *Notice {
	return notice(now, a, h, "back")
}

// goneNotice asks for the CAS to be told that an instance is no more.
func goneNotice(now time.Time, a *App, h HeldGrant, id ident.InstanceID, attempt ident.AttemptID) *Notice {
	n := notice(now, a, h, "gone:"+id.String())
	n.Instance = id
	n.Attempt = attempt
	return n
}

// notice is named after CAS and grant too: whoever brings a CAS of their own
// chooses what its grants are called.
func notice(now time.Time, a *App, h HeldGrant, what string) *Notice {
	return &Notice{
		ID:      what + ":" + h.ID.String() + "@" + h.CAS.String(),
		CAS:     h.CAS,
		CASAddr: h.CASAddr,
		Grant:   h.ID,
		Token:   h.Token,
		Since:   now,
		AppID:   a.ID,
		App:     a.Name,
		Owner:   a.Owner,
	}
}

// own says that it goes to the manager's own CAS.
func (n *Notice) own() bool { return n.CASAddr == "" }

// delivery is what became of the tries to deliver a notice.
type delivery struct {
	delivered bool
	refused   *problem.Error // the CAS's own word, which ends it too
	failures  int
	retry     time.Time // not before
}

const (
	// goneFor is how long it is worth to tell that an instance is no more: by then
	// its rights have lapsed.
	goneFor = 24 * time.Hour
	// backFor is how long a CAS is sought to give a grant back to. Anybody may
	// bring one that is never there.
	backFor = 30 * 24 * time.Hour
	// tellsAtOnce bounds the calls to the manager's own CAS at one time, and again
	// those to all others: anybody may bring one that never answers.
	tellsAtOnce = 16
)

// planNotices tells the CAS what it has to know, and forgets what it was told.
func (p *planner) planNotices() {
	p.dropStrange()
	p.planHeld()

	calls := map[bool]int{} // by whether the CAS is our own
	for id, n := range p.state.Notices {
		if p.busy[noticeKey(id)] {
			calls[n.own()]++
		}
	}

	strange := map[string]bool{}
	for _, id := range p.change.DeleteNotices {
		strange[id] = true
	}

	for _, id := range slices.Sorted(maps.Keys(p.state.Notices)) {
		n, t := p.state.Notices[id], p.deliveries[id]
		if strange[id] {
			continue
		}

		s, there := p.observed[n.Attempt]
		worth := backFor
		if !n.Instance.IsZero() {
			worth = goneFor
		}

		switch {
		case t.delivered || t.refused != nil || t.failures > 0 && p.now.Sub(n.Since) > worth:
			p.forgetNotice(n, t) // never untried, whatever the clock was set to
		case n.Since.Sub(p.now) > heldFor: // stored before the clock was set back
			sooner := *n
			sooner.Since = p.now.Add(heldFor)
			p.change.Notices = append(p.change.Notices, &sooner)
		case p.now.Before(n.Since):
			p.wakeAt(n.Since)
		case n.Attempt != "" && (there && s.State != StateExited || p.busy[string(n.Attempt)]):
			// It runs still, and may have something to commit.
		case p.now.Before(t.retry):
			p.wakeAt(t.retry)
		case calls[n.own()] < tellsAtOnce && !p.busy[noticeKey(id)]:
			p.act(deliverNotice{n})
			calls[n.own()]++ // the end of each makes this pass again
		}
	}
}

// maxStrange is how many notices are kept for CASes that aren't the manager's own:
// anybody may bring as many of them as they like that never answer.
const maxStrange = 1000

// dropStrange forgets such notices of the owners that have most.
func (p *planner) dropStrange() {
	if len(p.state.Notices) <= maxStrange {
		return
	}

	all := byRank(p.state.Notices, func(n *Notice) bool { return !n.own() && !p.busy[noticeKey(n.ID)] })
	for _, n := range all[:max(len(all)-maxStrange, 0)] {
		p.forgetNotice(n, delivery{refused: problem.New(problem.Unavailable, problem.RuleCASUnreachable, "too many CASes that are not this manager's own do not answer")})
	}
}

// forgetNotice forgets a notice, and tells what became of it where it gave a grant back.
func (p *planner) forgetNotice(n *Notice, t delivery) {
	p.change.DeleteNotices = append(p.change.DeleteNotices, n.ID)
	if !n.Instance.IsZero() || n.AppID == "" { // or its code was never used
		return
	}

	of := &App{ID: n.AppID, Name: n.App, Owner: n.Owner} // which may be gone
	if t.refused == nil && !t.delivered {
		t.refused = problem.New(problem.Unavailable, problem.RuleCASUnreachable, "its CAS was not there for %d days", backFor/(24*time.Hour))
	}
	if t.refused != nil {
		p.warn(of, nil, "grant_given_back", "grant %s not given back: %s", n.Grant.Short(), wording.Reason(t.refused))
		return
	}
	p.note(of, nil, "grant_given_back", "grant %s given back", n.Grant.Short())
}

// settleDelivery takes note of how a try to deliver a notice went. Callers hold mu.
func (m *Manager) settleDelivery(n *Notice, err error, now time.Time) {
	if m.state.Notices[n.ID] == nil {
		return // forgotten meanwhile
	}

	t := m.deliveries[n.ID]
	switch {
	case err == nil:
		t.delivered = true
	case definite(problem.From(err)) || problem.KindOf(err) == problem.Conflict:
		t.refused = problem.From(err)
	default:
		t.failures++
		t.retry = now.Add(backoff(m.limits, t.failures))
	}
	m.deliveries[n.ID] = t
}

// byRank sorts notices by how many newer ones their owner has, those first that have the
// fewest: the last of the list are the oldest of who has most.
func byRank(notices map[string]*Notice, some func(*Notice) bool) []*Notice {
	owned := map[ident.KeyHash][]*Notice{}
	for _, n := range notices {
		if some(n) {
			owned[n.Owner] = append(owned[n.Owner], n)
		}
	}

	type ranked struct {
		*Notice
		newer int // of the same owner
	}
	var all []ranked
	for _, list := range owned {
		slices.SortFunc(list, func(a, b *Notice) int { return b.Since.Compare(a.Since) })
		for i, n := range list {
			all = append(all, ranked{n, i})
		}
	}
	slices.SortFunc(all, func(a, b ranked) int { return b.newer - a.newer })

	out := make([]*Notice, 0, len(all))
	for _, n := range all {
		out = append(out, n.Notice)
	}
	return out
}
