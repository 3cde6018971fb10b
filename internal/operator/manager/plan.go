package manager

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/wire"
)

// world is what one pass of planning looks at. Planning is a pure function of
// it: no I/O, no clock, no randomness but newID.
type world struct {
	now      time.Time
	state    State
	observed map[string]InstanceStatus // by the Backend's id
	images   map[string]imageState     // by reference
	placed   placement                 // the state's instances
	applied  serving
	balance  balanceState
	drains   map[string]drainee // by the Backend's id
	// startErrors are failed calls of Start by the Backend's id.
	startErrors map[string]*problem.Error
	busy        map[string]bool // ids of the Backend and other keys with a call under way
	// stuck has the Backend's ids of instances that could not be ended or removed.
	stuck    map[string]problem.Rule
	told     map[string]tell  // what became of notices, by id
	reached  map[string]reach // by the app's id
	limits   Limits
	launcher ident.Digest // of new revisions
	newID    func(prefix string) string
	inTheWay func() bool // nil: nobody knows
}

// imageState is what is known about one image here.
type imageState struct {
	ready    bool
	problem  *problem.Error // of the last try
	failures int            // in a row
	retry    time.Time
}

// balanceState is what is known about the last try to program the balancer.
type balanceState struct {
	known  bool                      // applied is what is served; false until the first success
	retry  time.Time                 // not before
	failed map[uint16]*problem.Error // ports that somebody else holds
}

// Limits are the manager's times and counts.
type Limits struct {
	Deadline    time.Duration // of one deployment
	Health      time.Duration // from the last attestation to the last healthy instance
	MaxFailures int           // in a row, of one instance, before a deployment gives up
	BackoffMin  time.Duration
	BackoffMax  time.Duration
	Settled     time.Duration // running for so long forgives earlier failures
	Grace       time.Duration // from SIGTERM to SIGKILL
	Drain       time.Duration // from when nobody is led to an instance any more to SIGTERM, at most
	Starts      int           // instances that start at once; 0: any number
}

// DefaultLimits are what cupeld uses.
func DefaultLimits() Limits {
	return Limits{
		Deadline:    15 * time.Minute,
		Health:      2 * time.Minute,
		MaxFailures: 3,
		BackoffMin:  time.Second,
		BackoffMax:  time.Minute,
		Settled:     time.Minute,
		Grace:       10 * time.Second,
		Drain:       30 * time.Second,
	}
}

// Action keys that are no instance's.
const balanceKey = "balance"

// action is one slow call to make beside the loop.
type action struct {
	key   string // what is busy meanwhile
	app   string // id of the app whose step it is; empty: of none
	start *InstanceSpec
	stop  string // stop, keep it for its logs
	drop  string // stop and remove
	image string
	apply []Frontend // with key balanceKey
	tell  *Notice
	reach *HeldCAS
	look  *look
}

// decision is the outcome of one pass. The change must be durable before the
// first action begins.
type decision struct {
	change  Change
	actions []action
	leaving map[string]bool // the Backend's ids of instances that wait for their connections to end
	queued  map[string]bool // places whose instances wait for their turn to start
	visited int             // apps and instances that were looked at, for tests
	wake    time.Time       // when something is due; zero: when something happens
}

type planner struct {
	world
	decision
	ids       []string              // of all apps, in order
	planning  string                // id of the app whose steps are taken; empty: of none
	apps      map[string]*App       // touched, by id
	instances map[string]*Replica   // touched, by id
	gone      map[string]bool       // instances that this pass deletes
	changed   map[string]bool       // apps whose instances this pass touched
	created   placement             // by this pass
	wanted    map[string]bool       // references of images that are needed
	look      map[string]netip.Addr // of leaving instances whose connections are to be counted
	starts    []candidate
}

// plan compares what is desired with what is observed and takes the next steps.
func plan(w world) decision {
	p := &planner{
		world: w, apps: map[string]*App{}, instances: map[string]*Replica{},
		gone: map[string]bool{}, changed: map[string]bool{}, created: placement{}, wanted: map[string]bool{}, look: map[string]netip.Addr{},
		decision: decision{leaving: map[string]bool{}, queued: map[string]bool{}},
	}
	p.ids = slices.Sorted(maps.Keys(w.state.Apps))
	for _, id := range p.ids {
		p.planning = id
		p.planApp(w.state.Apps[id])
	}
	p.planning = ""
	p.planStarts()
	p.planImages()
	p.planBalance()
	p.planLook()
	p.planNotices()
	p.planCodes()
	p.dropOrphans()
	for _, id := range slices.Sorted(maps.Keys(p.apps)) {
		p.change.Apps = append(p.change.Apps, p.apps[id])
	}
	for _, id := range slices.Sorted(maps.Keys(p.instances)) {
		if !p.gone[id] {
			p.change.Replicas = append(p.change.Replicas, p.instances[id])
		}
	}
	return p.decision
}

func (p *planner) planApp(a *App) {
	if a.Removing {
		p.removeApp(a)
		return
	}
	if a.Rollout.active() {
		p.rollout(a)
		a = p.app(a.ID)
	}
	for _, in := range p.of(a.ID) {
		p.planInstance(a, in)
	}

	a = p.app(a.ID)
	p.planEnding(a)
	p.resumed(a)
	p.tellHealth(p.app(a.ID))
	p.planRenewal(p.app(a.ID))
	p.oldLauncher(p.app(a.ID))
	if a.unasked() {
		p.askOwner(a, "it runs under no grant and goes on, but the CAS will not let it start again")
	}
}

// app returns the app as this pass has it.
func (p *planner) app(id string) *App {
	if a, ok := p.apps[id]; ok {
		return a
	}
	return p.state.Apps[id]
}

// edit returns a copy of the app that this pass may change.
func (p *planner) edit(a *App) *App {
	if c, ok := p.apps[a.ID]; ok {
		return c
	}
	c := *a
	c.Rollout.Steps = slices.Clone(a.Rollout.Steps)
	p.apps[a.ID] = &c
	return &c
}

func (p *planner) editInstance(in *Replica) *Replica {
	if c, ok := p.instances[in.ID]; ok {
		return c
	}
	c := *in
	p.instances[in.ID], p.changed[in.App] = &c, true
	return &c
}

// of returns the app's instances as this pass has them, oldest first.
func (p *planner) of(app string) []*Replica {
	list := p.placed[app]
	p.visited += 1 + len(list)
	if !p.changed[app] {
		return list
	}
	out := make([]*Replica, 0, len(list)+len(p.created[app]))
	for _, in := range list {
		if c, ok := p.instances[in.ID]; ok {
			in = c
		}
		if !p.gone[in.ID] {
			out = append(out, in)
		}
	}
	for _, in := range p.created[app] {
		if !p.gone[in.ID] {
			out = append(out, p.instances[in.ID])
		}
	}
	slices.SortFunc(out, byAge)
	return out
}

// backendID names one attempt to run an instance.
func backendID(in *Replica, attempt int) string { return in.ID + "-" + strconv.Itoa(attempt) }

// replicaOf undoes it; the attempt is -1 where the id is none of ours.
func replicaOf(id string) (place string, attempt int) {
	at := strings.LastIndexByte(id, '-')
	if at < 0 {
		return "", -1
	}
	attempt, err := strconv.Atoi(id[at+1:])
	if err != nil || backendID(&Replica{ID: id[:at]}, attempt) != id {
		return "", -1
	}
	return id[:at], attempt
}

// seen returns what the Backend says about the instance's newest attempt.
func (w *world) seen(in *Replica) (InstanceStatus, bool) {
	s, ok := w.observed[backendID(in, in.Attempt)]
	return s, ok
}

func (p *planner) event(a *App, in *Replica, warning bool, reason, format string, args ...any) {
	p.change.Events = append(p.change.Events, newEvent(p.now, a, in, warning, reason, fmt.Sprintf(format, args...)))
}

func newEvent(now time.Time, a *App, in *Replica, warning bool, reason, message string) Event {
	e := Event{Event: managerapi.Event{Time: now, Reason: reason, Message: message, Warning: warning}}
	if a != nil {
		e.AppID, e.App, e.Owner = a.ID, a.Name, a.Owner
	}
	if in != nil {
		e.Instance = in.ID
	}
	return e
}

func (p *planner) act(a action) {
	if !p.busy[a.key] {
		a.app = p.planning
		p.actions = append(p.actions, a)
	}
}

// wakeAt asks for another pass at t.
func (p *planner) wakeAt(t time.Time) {
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
	}
}

// revision returns the revision that the instance belongs to, if it is still
// meant to run.
func revision(a *App, in *Replica) *Revision {
	switch {
	case a.Next != nil && a.Next.Number == in.Revision:
		return a.Next
	case a.Current != nil && a.Current.Number == in.Revision && in.Role == RoleApp:
		return a.Current
	}
	return nil
}

// planImages brings what is needed and not here.
func (p *planner) planImages() {
	for _, ref := range slices.Sorted(maps.Keys(p.wanted)) {
		st := p.images[ref]
		switch {
		case st.ready:
		case p.now.Before(st.retry):
			p.wakeAt(st.retry)
		default:
			p.act(action{key: "image:" + ref, image: ref})
		}
	}
}

// dropOrphans removes what the Backend has and nobody asked for, such as an
// instance whose record was deleted while the manager was down.
func (p *planner) dropOrphans() {
	var orphans []string
	for id := range p.observed {
		place, attempt := replicaOf(id)
		in := p.instances[place]
		if in == nil {
			in = p.state.Replicas[place]
		}
		if in == nil || attempt < in.Attempt-1 || attempt > in.Attempt {
			orphans = append(orphans, id)
		}
	}
	slices.Sort(orphans)
	for _, id := range orphans {
		p.act(action{key: id, drop: id})
	}
}

// spec is what the Backend gets to start the instance's newest attempt.
func spec(a *App, rev *Revision, in *Replica) *InstanceSpec {
	service, port, memory := rev.Service, rev.ContainerPort, rev.Memory
	if in.Role == RolePull {
		service, port = rev.PullService, 0
		// git needs room of its own beside what it clones.
		memory = max(memory, minPullMemory)
	}
	var token secret.Value
	if rev.Grant != nil {
		token = secret.NewString(rev.Grant.Token.Reveal())
	}
	return &InstanceSpec{
		Grant: token,
		ID:    backendID(in, in.Attempt), App: a.ID, AppName: a.Name,
		Config:  ident.ServiceRef{Session: rev.Session, Service: service},
		Binding: wire.LaunchBinding(rev.CAS, rev.Session, service),
		CAS:     rev.CAS, CASAddr: rev.CASAddr,
		Image: rev.image(in.Role), Memory: memory, Port: port, Profile: rev.Profile, Launcher: rev.Launcher,
		Labels: map[string]string{"instance": in.ID, "role": string(in.Role), "revision": fmt.Sprint(rev.Number)},
	}
}

const minPullMemory = 256 << 20

// image is the one that the revision's instances in a role are of.
func (r *Revision) image(role Role) string {
	if role == RolePull {
		return r.PullImage
	}
	return r.Image
}
