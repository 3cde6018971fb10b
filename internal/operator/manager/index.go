package manager

import (
	"slices"
	"strings"
)

// replicasByApp are the replicas of each app, by the app's id, oldest first. A list is
// never changed once it is in here: whoever has it may keep it.
type replicasByApp map[string][]*Replica

// groupByApp sorts replicas into the apps that they are of.
func groupByApp(replicas map[string]*Replica) replicasByApp {
	out := replicasByApp{}
	for _, r := range replicas {
		out[r.App] = append(out[r.App], r)
	}
	for _, list := range out {
		slices.SortFunc(list, byAge)
	}
	return out
}

// put takes up a replica, or its newest version.
func (p replicasByApp) put(r *Replica) {
	list := slices.Clone(p[r.App])
	at, there := slices.BinarySearchFunc(list, r, byAge)
	if there {
		list[at] = r
	} else {
		list = slices.Insert(list, at, r)
	}
	p[r.App] = list
}

// drop forgets a replica that was deleted.
func (p replicasByApp) drop(r *Replica) {
	list := p[r.App]
	at, there := slices.BinarySearchFunc(list, r, byAge)
	switch {
	case !there:
	case len(list) == 1:
		delete(p, r.App)
	default:
		p[r.App] = slices.Delete(slices.Clone(list), at, at+1)
	}
}

func byAge(a, b *Replica) int {
	if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// serving is what the balancer serves, and where to find it.
type serving struct {
	frontends []Frontend
	apps      map[string][]Frontend // by the app's id
	ports     map[uint16]bool
	replicas  map[string]bool // ids of the replicas that it leads to
}

// servingOf indexes what the balancer serves.
func servingOf(frontends []Frontend) serving {
	s := serving{
		frontends: frontends,
		apps:      map[string][]Frontend{},
		ports:     map[uint16]bool{},
		replicas:  map[string]bool{},
	}
	for _, f := range frontends {
		s.apps[f.App] = append(s.apps[f.App], f)
		s.ports[f.Port] = true
		for _, e := range f.Endpoints {
			s.replicas[e.Instance] = true
		}
	}
	return s
}
