package reference

import (
	"slices"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/session"
)

// Kept returns the measurements that an update of a session keeps beside the new
// ones: those that the current version lists, and that the owner vouched for with
// the very same packages under another launcher. So an upgrade of the launcher
// takes nothing from what still runs on the one before, and older packages come
// back by no update.
func Kept(current *session.Session, known []Value, now map[ident.ServiceName]ident.Measurement) map[ident.ServiceName][]ident.Measurement {
	out := map[ident.ServiceName][]ident.Measurement{}
	for _, svc := range current.Services {
		next, ok := valueOf(known, now[svc.Name])
		if !ok {
			continue
		}

		for _, identity := range svc.Attestation {
			for _, m := range identity.Measurements {
				old, ok := valueOf(known, m)
				same := ok && old.Runtime == next.Runtime && old.Definition == next.Definition && old.Lock == next.Lock
				if same && m != next.Measurement && !slices.Contains(out[svc.Name], m) {
					out[svc.Name] = append(out[svc.Name], m)
				}
			}
		}
	}

	return out
}

func valueOf(known []Value, m ident.Measurement) (Value, bool) {
	i := slices.IndexFunc(known, func(v Value) bool { return v.Measurement == m })
	if i < 0 {
		return Value{}, false
	}

	return known[i], true
}
