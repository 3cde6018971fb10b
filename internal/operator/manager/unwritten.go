package manager

import "slices"

// independent returns what may be done although the change could not be written: the
// actions of apps that it doesn't touch, and those of no app. So one write that fails
// holds up nobody but whom it is about.
//
// Of apps that it does touch the balancer is told only what ended: an endpoint that
// is gone takes no connections, whether that was written down or not.
func (d *decision) independent(applied serving) []planned {
	touched := map[string]bool{}
	for _, a := range d.change.Apps {
		touched[a.ID] = true
	}
	for _, r := range d.change.Replicas {
		touched[r.App] = true
	}
	for _, id := range d.change.DeleteApps {
		touched[id] = true
	}

	var out []planned
	for _, a := range d.actions {
		if touched[a.app] {
			continue
		}
		if b, ok := a.action.(programBalancer); ok {
			b.frontends = withoutNews(b.frontends, applied, touched)
			if slices.EqualFunc(b.frontends, applied.frontends, sameFrontend) {
				continue
			}
			a.action = b
		}
		out = append(out, a)
	}
	return out
}

// withoutNews leaves away what frontends of touched apps have beyond what is
// applied.
func withoutNews(want []Frontend, applied serving, touched map[string]bool) []Frontend {
	var out []Frontend
	for _, f := range want {
		if !touched[f.App] {
			out = append(out, f)
			continue
		}

		for _, now := range applied.apps[f.App] {
			if now.Port == f.Port {
				f.Endpoints = common(f.Endpoints, now.Endpoints)
				out = append(out, f)
			}
		}
	}
	return out
}

// common are the endpoints that are both wanted and served now.
func common(want, now []Endpoint) []Endpoint {
	var out []Endpoint
	for _, e := range want {
		for _, n := range now {
			if e == n {
				out = append(out, e)
			}
		}
	}
	return out
}
