package manager

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// Incident is something that happened to a part of the machine that carries
// instances: it hangs, it was repaired, what it kept was damaged. The operator
// finds it among the events, and so does the owner of the instance that it names.
type Incident struct {
	Instance ident.AttemptID // the attempt's id; empty: it concerns no single one
	App      string          // the app's id, where it concerns that and no single instance
	Warning  bool
	Reason   string // of the event
	Message  string
}

// maxIncidents is how many wait to be written, the newest; while a disk is full
// they can't be.
const maxIncidents = 1000

// Incidents is where parts of the machine tell what happened to them, also while no
// manager runs. The zero value is ready; methods are safe for concurrent use.
type Incidents struct {
	mu      sync.Mutex
	waiting []Incident
	told    func()
}

// Tell adds one, which becomes an event once a manager runs.
func (i *Incidents) Tell(in Incident) {
	i.mu.Lock()
	i.waiting = append(i.waiting, in)
	i.waiting = i.waiting[max(len(i.waiting)-maxIncidents, 0):]

	told := i.told
	i.mu.Unlock()
	if told != nil {
		told()
	}
}

// Events of what fails and is tried again.
const (
	ReasonTrouble     = "trouble"      // it fails
	ReasonTroubleOver = "trouble_over" // it works again
)

// Troubles keep track of what fails and is tried again, so that it is told once that it
// fails, and once that it works again. Methods are safe for concurrent use.
type Troubles struct {
	Tell func(Incident)

	mu    sync.Mutex
	known map[trouble]bool // that were told and are not over
}

// trouble is one thing that may fail again and again, maybe with one instance.
type trouble struct {
	what     string
	instance ident.AttemptID
}

// Note takes note of how something went.
func (t *Troubles) Note(what string, instance ident.AttemptID, err error) {
	key := trouble{what, instance}
	t.mu.Lock()
	was := t.known[key]
	switch {
	case err == nil:
		delete(t.known, key)
	case t.known == nil:
		t.known = map[trouble]bool{key: true}
	default:
		t.known[key] = true
	}
	t.mu.Unlock()

	switch {
	case err != nil && !was:
		t.Tell(Incident{Warning: true, Reason: ReasonTrouble, Instance: instance, Message: what + ": " + explained(err)})
	case err == nil && was:
		t.Tell(Incident{Reason: ReasonTroubleOver, Instance: instance, Message: what + ": works again"})
	}
}

// Forget forgets the troubles of an instance that is no more.
func (t *Troubles) Forget(instance ident.AttemptID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.known, func(key trouble, _ bool) bool { return key.instance == instance })
}

// explained is an error in a line, with the way out.
func explained(err error) string {
	p := problem.From(err)
	message := p.Actual
	if p.Kind != problem.Internal { // which says nothing by its rule
		message = string(p.Rule) + ": " + message
	}
	if p.Mend != "" {
		message += "; " + p.Mend
	}
	return message
}

// wake calls f with each Incident that is told from now on.
func (i *Incidents) wake(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.told = f
}

func (i *Incidents) take() []Incident {
	i.mu.Lock()
	defer i.mu.Unlock()
	list := i.waiting
	i.waiting = nil
	return list
}

// putBack keeps for later what could not be written.
func (i *Incidents) putBack(list []Incident) {
	i.mu.Lock()
	defer i.mu.Unlock()
	all := slices.Concat(list, i.waiting)
	i.waiting = all[max(len(all)-maxIncidents, 0):]
}

// writeIncidents makes events of what was told. Callers hold mu.
func (m *Manager) writeIncidents(ctx context.Context) {
	list := m.cfg.Incidents.take()
	if len(list) == 0 {
		return
	}

	var c Change
	for _, i := range list {
		a, r := m.replicaOfAttempt(i.Instance)
		if i.App != "" {
			a = m.state.Apps[i.App]
		}

		e := newEvent(m.cfg.Now(), a, r, i.Reason, i.Message)
		e.Warning = i.Warning
		c.Events = append(c.Events, e)
	}

	if err := m.commit(ctx, c); err != nil {
		m.cfg.Log.ErrorContext(ctx, "what happened to the machine's parts is not written yet", "error", err)
		m.cfg.Incidents.putBack(list)
		time.AfterFunc(time.Second, m.poke)
	}
}

// replicaOfAttempt returns the replica that an attempt is of, and its app; nil for one
// that is nobody's. Callers hold mu.
func (m *Manager) replicaOfAttempt(id ident.AttemptID) (*App, *Replica) {
	at := strings.LastIndexByte(string(id), '-')
	if at < 0 {
		return nil, nil
	}
	r := m.state.Replicas[string(id[:at])]
	if r == nil {
		return nil, nil
	}
	return m.state.Apps[r.App], r
}

// noteUncleared tells that an instance could not be ended or removed, which is tried again.
// Callers hold mu.
func (m *Manager) noteUncleared(id ident.AttemptID, err error) {
	p := problem.From(err)
	m.cfg.Log.Warn("instance not cleared away", "instance", id, "error", err)
	if m.uncleared[id] == p.Rule {
		return
	}

	m.uncleared[id] = p.Rule
	m.cfg.Incidents.Tell(Incident{Instance: id, Warning: true, Reason: "instance_not_cleared", Message: explained(err) + "; it is tried again"})
}
