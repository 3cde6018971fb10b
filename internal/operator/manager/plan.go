package manager

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/wire"
)

// planner makes a decision about a world. The world stays as it is: what this pass changes
// are copies, kept by id.
type planner struct {
	world
	decision
	appIDs   []string                       // of all apps, in order
	planning string                         // id of the app whose steps are taken; empty: of none
	apps     map[string]*App                // touched, by id
	replicas map[string]*Replica            // touched, by id
	created  replicasByApp                  // by this pass
	deleted  map[string]bool                // ids of replicas that this pass deletes
	changed  map[string]bool                // ids of apps whose replicas this pass touched
	wanted   map[ident.ImageRef]bool        // references of images that are needed
	toCount  map[ident.AttemptID]netip.Addr // of leaving attempts whose connections are to be counted
	starts   []candidate
}

// plan compares what is desired with what is observed and takes the next steps.
func plan(w world) decision {
	p := &planner{
		world:    w,
		decision: decision{leaving: map[ident.AttemptID]bool{}, queued: map[string]bool{}},
		appIDs:   slices.Sorted(maps.Keys(w.state.Apps)),
		apps:     map[string]*App{},
		replicas: map[string]*Replica{},
		created:  replicasByApp{},
		deleted:  map[string]bool{},
		changed:  map[string]bool{},
		wanted:   map[ident.ImageRef]bool{},
		toCount:  map[ident.AttemptID]netip.Addr{},
	}

	// Each app by itself.
	for _, id := range p.appIDs {
		p.planning = id
		p.planApp(w.state.Apps[id])
	}
	p.planning = ""

	// What they share.
	p.planStarts()
	p.planImages()
	p.planBalance()
	p.planCounts()
	p.planNotices()
	p.planCodes()
	p.removeOrphans()

	p.writeTouched()
	return p.decision
}

// planApp takes the next steps of one app. Each may change it: the next looks at what the
// ones before left.
func (p *planner) planApp(a *App) {
	if a.Removing {
		p.removeApp(a)
		return
	}

	if a.Rollout.active() {
		p.rollout(a)
		a = p.app(a.ID)
	}
	for _, r := range p.replicasOf(a.ID) {
		p.planReplica(a, r)
	}

	p.planGiveBack(p.app(a.ID))
	p.tellResumed(p.app(a.ID))
	p.tellHealth(p.app(a.ID))
	p.planRenewal(p.app(a.ID))
	p.tellOldLauncher(p.app(a.ID))
	if a := p.app(a.ID); a.lacksGrant() {
		p.askOwner(a, "it runs under no grant and goes on, but the CAS will not let it start again")
	}
}

// planImages brings what is needed and not here.
func (p *planner) planImages() {
	for _, ref := range slices.Sorted(maps.Keys(p.wanted)) {
		image := p.images[ref]
		switch {
		case image.ready:
		case p.now.Before(image.retry):
			p.wakeAt(image.retry)
		default:
			p.act(bringImage{ref})
		}
	}
}

// removeOrphans removes what the Backend has and nobody asked for, such as an
// attempt whose replica was deleted while the manager was down.
func (p *planner) removeOrphans() {
	var orphans []ident.AttemptID
	for id := range p.observed {
		replica, attempt := replicaOf(id)
		r := p.replicas[replica]
		if r == nil {
			r = p.state.Replicas[replica]
		}
		if r == nil || attempt < r.Attempt-1 || attempt > r.Attempt {
			orphans = append(orphans, id)
		}
	}

	slices.Sort(orphans)
	for _, id := range orphans {
		p.act(removeAttempt{id})
	}
}

// writeTouched puts what this pass touched into its change.
func (p *planner) writeTouched() {
	for _, id := range slices.Sorted(maps.Keys(p.apps)) {
		p.change.Apps = append(p.change.Apps, p.apps[id])
	}
	for _, id := range slices.Sorted(maps.Keys(p.replicas)) {
		if !p.deleted[id] {
			p.change.Replicas = append(p.change.Replicas, p.replicas[id])
		}
	}
}

// app returns the app as this pass has it.
func (p *planner) app(id string) *App {
	if a, ok := p.apps[id]; ok {
		return a
	}
	return p.state.Apps[id]
}

// editApp returns a copy of the app that this pass may change.
func (p *planner) editApp(a *App) *App {
	if c, ok := p.apps[a.ID]; ok {
		return c
	}
	c := *a
	c.Rollout.Steps = slices.Clone(a.Rollout.Steps)
	p.apps[a.ID] = &c
	return &c
}

// editReplica returns a copy of the replica that this pass may change.
func (p *planner) editReplica(r *Replica) *Replica {
	if c, ok := p.replicas[r.ID]; ok {
		return c
	}
	c := *r
	p.replicas[r.ID] = &c
	p.changed[r.App] = true
	return &c
}

// replicasOf returns the app's replicas as this pass has them, oldest first.
func (p *planner) replicasOf(app string) []*Replica {
	list := p.byApp[app]
	p.visited += 1 + len(list)
	if !p.changed[app] {
		return list
	}

	out := make([]*Replica, 0, len(list)+len(p.created[app]))
	for _, r := range list {
		if c, ok := p.replicas[r.ID]; ok {
			r = c
		}
		if !p.deleted[r.ID] {
			out = append(out, r)
		}
	}
	for _, r := range p.created[app] {
		if !p.deleted[r.ID] {
			out = append(out, p.replicas[r.ID])
		}
	}
	slices.SortFunc(out, byAge)
	return out
}

// act asks for an action, unless one of its key is under way.
func (p *planner) act(a action) {
	if !p.busy[a.key()] {
		p.actions = append(p.actions, planned{app: p.planning, action: a})
	}
}

// wakeAt asks for another pass at t.
func (p *planner) wakeAt(t time.Time) {
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
	}
}

// note tells of something as an event.
func (p *planner) note(a *App, r *Replica, reason, format string, args ...any) {
	p.change.Events = append(p.change.Events, newEvent(p.now, a, r, reason, fmt.Sprintf(format, args...)))
}

// warn tells of something that went wrong.
func (p *planner) warn(a *App, r *Replica, reason, format string, args ...any) {
	p.change.Events = append(p.change.Events, newWarning(p.now, a, r, reason, fmt.Sprintf(format, args...)))
}

// newEvent is an event of an app, and of one of its replicas; nil for neither.
func newEvent(now time.Time, a *App, r *Replica, reason, message string) Event {
	e := Event{Event: managerapi.Event{Time: now, Reason: reason, Message: message}}
	if a != nil {
		e.AppID = a.ID
		e.App = a.Name
		e.Owner = a.Owner
	}
	if r != nil {
		e.Instance = r.ID
	}
	return e
}

func newWarning(now time.Time, a *App, r *Replica, reason, message string) Event {
	e := newEvent(now, a, r, reason, message)
	e.Warning = true
	return e
}

// revisionToRun returns the revision that the replica belongs to, if it is still
// meant to run.
func revisionToRun(a *App, r *Replica) *Revision {
	switch {
	case a.Next != nil && a.Next.Number == r.Revision:
		return a.Next
	case a.Current != nil && a.Current.Number == r.Revision && r.Role == RoleApp:
		return a.Current
	}
	return nil
}

// minPullMemory is what a pull has at least: git needs room of its own beside what it
// clones.
const minPullMemory = 256 << 20

// specOf is what the Backend gets to start the replica's newest attempt.
func specOf(a *App, rev *Revision, r *Replica) InstanceSpec {
	service := rev.Service
	port := rev.ContainerPort
	memory := rev.Memory
	if r.Role == RolePull {
		service = rev.PullService
		port = 0
		memory = max(memory, minPullMemory)
	}

	var token secret.Value
	if rev.Grant != nil {
		token = secret.NewString(rev.Grant.Token.Reveal())
	}

	return InstanceSpec{
		ID:       attemptID(r, r.Attempt),
		App:      a.ID,
		AppName:  a.Name,
		Config:   ident.ServiceRef{Session: rev.Session, Service: service},
		Binding:  wire.LaunchBinding(rev.CAS, rev.Session, service),
		CAS:      rev.CAS,
		CASAddr:  rev.CASAddr,
		Image:    rev.image(r.Role),
		Memory:   memory,
		Port:     port,
		Labels:   map[string]string{"instance": r.ID, "role": string(r.Role), "revision": fmt.Sprint(rev.Number)},
		Profile:  rev.Profile,
		Launcher: rev.Launcher,
		Grant:    token,
	}
}

// image is the one that the revision's instances in a role are of.
func (r *Revision) image(role Role) ident.ImageRef {
	if role == RolePull {
		return r.PullImage
	}
	return r.Image
}
