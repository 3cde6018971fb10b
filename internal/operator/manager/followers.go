package manager

import (
	"sync"

	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// maxFollowers is how many follow logs or events at once, of all keys together: a
// quarter of the API's connections. Each costs the manager a look whenever
// something happens.
const maxFollowers = maxConnections / 4

// followers counts who follows. The zero value is ready.
type followers struct {
	mu    sync.Mutex
	all   int
	byKey map[ident.KeyHash]int
}

// enter takes a place for a key, at most so many (0: as many as there are); leave
// gives it back.
func (f *followers) enter(key ident.KeyHash, most int) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byKey == nil {
		f.byKey = map[ident.KeyHash]int{}
	}
	switch {
	case most > 0 && f.byKey[key] >= most:
		return nil, problem.New(problem.Unavailable, "followers", "this key follows logs and events %d times already", f.byKey[key]).
			Want("at most %d at once for each key", most).
			Fix("end a 'cupel logs -f' or 'cupel events -f', leave -f out, or ask the operator for more: cupel up --app-quota followers=…")
	case f.all >= maxFollowers:
		return nil, problem.New(problem.Unavailable, "followers", "%d follow logs and events already", f.all).
			Want("at most %d at once", maxFollowers).
			Fix("leave -f out, or try again later")
	}
	f.all++
	f.byKey[key]++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.all--
		if f.byKey[key]--; f.byKey[key] == 0 {
			delete(f.byKey, key)
		}
	}, nil
}

// follow takes a place for a caller who follows; the operator has no limit of their
// own.
func (m *Manager) follow(caller ident.KeyHash) (leave func(), err error) {
	most := m.cfg.Keys.Followers
	if caller == m.cfg.Operator {
		most = 0
	}
	return m.following.enter(caller, most)
}
