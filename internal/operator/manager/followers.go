package manager

import (
	"sync"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// How many logs of instances and events are followed at once, by all keys together: a
// half of the API's connections. Each costs the manager a look whenever something
// happens. The last places are for whoever runs the machine, and most of the others
// for who has apps on it: keys cost nothing.
const (
	maxFollowers   = maxConnections / 2
	ownersPlaces   = maxFollowers / 8 * 7
	strangerPlaces = maxFollowers / 4
	// keyPlaces are those of one key at the most: enough to follow the largest app
	// while it is updated, with old and new instances side by side.
	keyPlaces = 2*maxInstances + maxInstances/4
)

// followers counts who follows what. The zero value is ready.
type followers struct {
	mu    sync.Mutex
	all   int
	byKey map[ident.KeyHash]*followed
}

// followed is what one key follows. The instances of an app count once, as somebody
// who follows an app follows all of them.
type followed struct {
	streams int
	events  int
	apps    map[string]int // how many instances, by the app's id
}

// class bounds a kind of callers; zero: no bound of its own.
type class struct {
	things int // apps and times events, of one key
	key    int // instances and times events, of one key
	all    int // the same of all keys, above which none of this class is let in
}

// enter takes a place for a key that follows an app's instance, or events (app is
// empty then); leave gives it back.
func (f *followers) enter(key ident.KeyHash, app string, c class) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.byKey[key]
	if k == nil {
		k = &followed{apps: map[string]int{}}
	}

	things := k.events + len(k.apps)
	switch {
	case c.things > 0 && things >= c.things && k.apps[app] == 0:
		return nil, problem.New(problem.Unavailable, ruleFollowers, "this key follows apps' logs and events %d times already", things).
			Want("at most %d at once for each key", c.things).
			Fix("end a 'cupel logs -f' or 'cupel events -f', leave -f out, or ask the operator for more: %s", restart("--app-quota followers=NUMBER"))
	case c.key > 0 && k.streams >= c.key:
		return nil, problem.New(problem.Unavailable, ruleFollowers, "this key follows %d instances and events already", k.streams).
			Want("at most %d at once for each key", c.key).
			Fix("end a 'cupel logs -f' or 'cupel events -f', follow single instances, or leave -f out")
	case f.all >= c.all:
		return nil, problem.New(problem.Unavailable, ruleFollowers, "%d instances and events are followed already", f.all).
			Want("fewer than %d, for keys like this one", c.all).
			Fix("leave -f out, or try again later")
	}

	if f.byKey == nil {
		f.byKey = map[ident.KeyHash]*followed{}
	}
	f.byKey[key] = k
	f.add(key, k, app, 1)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.add(key, k, app, -1)
	}, nil
}

// add counts one more, or one fewer. Callers hold mu.
func (f *followers) add(key ident.KeyHash, k *followed, app string, n int) {
	f.all += n
	k.streams += n
	if app == "" {
		k.events += n
	} else if k.apps[app] += n; k.apps[app] == 0 {
		delete(k.apps, app)
	}
	if k.streams == 0 {
		delete(f.byKey, key)
	}
}

// follow takes a place for a caller who follows an app's instance, or events.
func (m *Manager) follow(caller ident.KeyHash, app string) (leave func(), err error) {
	return m.following.enter(caller, app, m.classOf(caller))
}

// classOf is what a key is here: the operator's own, one with apps, or anybody's.
func (m *Manager) classOf(caller ident.KeyHash) class {
	if caller == m.cfg.Operator {
		return class{all: maxFollowers}
	}
	c := class{things: m.cfg.Keys.Followers, key: keyPlaces, all: strangerPlaces}

	m.mu.Lock()
	defer m.mu.Unlock()
	instances := 0
	for _, a := range m.state.Apps {
		if a.Owner == caller {
			c.all = ownersPlaces
			instances += len(m.byApp[a.ID])
		}
	}

	if c.things > 0 { // each of its instances twice, as by two people
		c.key = min(c.key, c.things+2*instances)
	}
	return c
}
