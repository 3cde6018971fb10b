package manager

import (
	"slices"
	"strings"
)

// placement is the instances of each app, by the app's id, oldest first. A list is
// never changed once it is in here: whoever has it may keep it.
type placement map[string][]*Replica

func placementOf(instances map[string]*Replica) placement {
	out := placement{}
	for _, in := range instances {
		out[in.App] = append(out[in.App], in)
	}
	for _, list := range out {
		slices.SortFunc(list, byAge)
	}
	return out
}

// put takes up an instance, or its newest version.
func (p placement) put(in *Replica) {
	list := slices.Clone(p[in.App])
	at, there := slices.BinarySearchFunc(list, in, byAge)
	if there {
		list[at] = in
	} else {
		list = slices.Insert(list, at, in)
	}
	p[in.App] = list
}

func (p placement) drop(in *Replica) {
	list := p[in.App]
	at, there := slices.BinarySearchFunc(list, in, byAge)
	switch {
	case !there:
	case len(list) == 1:
		delete(p, in.App)
	default:
		p[in.App] = slices.Delete(slices.Clone(list), at, at+1)
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
	instances map[string]bool // the places' ids that it leads to
}

func servingOf(frontends []Frontend) serving {
	s := serving{frontends: frontends, apps: map[string][]Frontend{}, ports: map[uint16]bool{}, instances: map[string]bool{}}
	for _, f := range frontends {
		s.apps[f.App] = append(s.apps[f.App], f)
		s.ports[f.Port] = true
		for _, e := range f.Endpoints {
			s.instances[e.Instance] = true
		}
	}
	return s
}
