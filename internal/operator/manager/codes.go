package manager

import (
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

// UsedCode says that a grant's code was taken. It outlives the app.
type UsedCode struct {
	Grant owners.GrantID `json:"grant"`
	Code  ident.Digest   `json:"code"` // of its text
	App   string         `json:"app"`  // the app's name
	Used  time.Time      `json:"used"`
}

const (
	// keptCodes is how many used codes are remembered whose grant is given back:
	// their CAS refuses them too, but can't say which app had them.
	keptCodes = 1000
	// heldFor is how long a code that was claimed and then refused can be handed in
	// again, before its grant is given back.
	heldFor = 24 * time.Hour
	// maxHeld is how many of these codes are held at once.
	maxHeld = 1000
)

// checkUnused refuses a code that was taken before. Whoever only knows the grant's
// name learns nothing from it: that is the CAS's to refuse. Callers hold mu.
func (m *Manager) checkUnused(code owners.GrantCode) error {
	used := m.state.Codes[digestOf(code)]
	if used == nil {
		return nil
	}
	return problem.New(problem.Conflict, problem.RuleCodeUsed, "this code was used on %s, for app %q", used.Used.UTC().Format(time.RFC3339), used.App).
		Want("a code that was not used yet").
		Fix("make another: cupel session submit SESSION, or let cupel deploy do it")
}

func digestOf(code owners.GrantCode) ident.Digest { return ident.Sum([]byte(code.String())) }

// planCodes forgets the oldest of the codes that nothing needs any more.
func (p *planner) planCodes() {
	if len(p.state.Codes) <= keptCodes {
		return
	}
	needed := map[owners.GrantID]bool{}
	for _, a := range p.state.Apps {
		for _, h := range a.grants() {
			needed[h.ID] = true
		}
	}
	for _, n := range p.state.Notices {
		needed[n.Grant] = true
	}

	var spare []*UsedCode
	for _, u := range p.state.Codes {
		if !needed[u.Grant] {
			spare = append(spare, u)
		}
	}
	slices.SortFunc(spare, func(a, b *UsedCode) int { return a.Used.Compare(b.Used) })
	for _, u := range spare[:max(len(spare)-keptCodes, 0)] {
		p.change.DeleteCodes = append(p.change.DeleteCodes, u.Code)
	}
}

// planHeld has grants of refused codes given back before their time where there are
// many: of whoever has most, the oldest.
func (p *planner) planHeld() {
	if len(p.state.Notices) <= maxHeld {
		return
	}

	held := byRank(p.state.Notices, func(n *Notice) bool { return n.AppID == "" && p.now.Before(n.Since) })
	for _, n := range held[:max(len(held)-maxHeld, 0)] {
		due := *n
		due.Since = p.now
		p.change.Notices = append(p.change.Notices, &due)
	}
}

// refuse is the refusal of a request whose code was claimed already. The code
// stays good here for a day, so that the request can be mended; then its grant is
// given back.
func (m *Manager) refuse(ctx context.Context, caller ident.KeyHash, rev *Revision, right right, why error) error {
	if rev.Grant == nil || problem.From(why).Rule == problem.RuleCodeUsed {
		return why
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.checkUnused(right.code) != nil {
		return why // another request with the same code was carried out meanwhile
	}
	later := giveBackNotice(m.cfg.Now().Add(heldFor), &App{Name: right.app, Owner: right.owner}, *rev.held())
	if right.unusable {
		later.Since = m.cfg.Now()
	}

	if n := m.state.Notices[later.ID]; n != nil {
		later = n // since the first refusal
	} else if err := m.commit(context.WithoutCancel(ctx), Change{Notices: []*Notice{later}}); err != nil {
		m.cfg.Log.WarnContext(ctx, "a claimed grant will not be given back if it stays unused", "grant", rev.Grant.ID, "error", err)
	}
	m.poke()

	p := *problem.From(why)
	if right.unusable || caller == right.owner { // whose command looks after its grant itself
		return &p
	}
	if p.Mend != "" {
		p.Mend += "; "
	}
	p.Mend += "the code can be handed in here again until " + later.Since.UTC().Format(time.RFC3339)
	return &p
}

// giveBackNow has the grants of codes that were refused given back now, since the app
// that they were for is deployed otherwise. Callers hold mu.
func (m *Manager) giveBackNow(a *App, app string, now time.Time) []*Notice {
	var out []*Notice
	for _, n := range m.state.Notices {
		if n.AppID == "" && n.Owner == a.Owner && n.App == app && now.Before(n.Since) {
			due := *n
			due.Since = now
			out = append(out, &due)
		}
	}
	return out
}

// takeBack takes back what a refusal of the same code left to be told. Callers hold
// mu.
func (m *Manager) takeBack(a *App, h *HeldGrant) ([]string, error) {
	id := giveBackNotice(time.Time{}, a, *h).ID
	n := m.state.Notices[id]
	switch {
	case n == nil:
		return nil, nil
	case m.cfg.Now().Before(n.Since):
		return []string{id}, nil
	}
	return nil, problem.New(problem.Conflict, problem.RuleCodeUsed, "this code was handed in more than %d hours ago, refused, and its grant given back", heldFor/time.Hour).
		Want("a code that was not used yet").
		Fix("make another: cupel session submit %s, or let cupel deploy do it", a.Session)
}
