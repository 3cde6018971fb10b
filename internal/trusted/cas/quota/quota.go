package quota

// Measure is one thing that is counted.
type Measure int

// What is counted. Measures is how many there are.
const (
	Sessions Measure = iota
	Versions
	Bytes  // of sessions' texts and of what the CAS generates for them
	Grants // that have not ended
	Names  // of sessions, removed ones included: each stays its creator's
	Measures
)

// names are the measures as flags, rules and people have them.
var names = [Measures]string{"sessions", "versions", "bytes", "grants", "names"}

// String is the measure as flags and people have it.
func (m Measure) String() string { return names[m] }

// Amounts is so much of every measure.
type Amounts [Measures]int64

// Scope is for whom something is counted.
type Scope string

// For whom something is counted. A key is free to make, so that the other two
// scopes hold beside the first.
const (
	PerKey     Scope = "key"     // the client's key
	PerAddress Scope = "address" // the client's source address
	InTotal    Scope = "total"
)

// Limits are the limits of what a CAS keeps: for each client's key, for each
// source address, and in total. The zero Limits are the defaults.
type Limits struct {
	set map[Scope]Amounts // nil: the defaults
}

// namesPerSession is how many names may be held for each session of a quota.
const namesPerSession = 10

// ownPart is the part of a key's quota, and of what all have, that is kept for
// updates and grants of sessions that are there: within it they are not refused
// because others filled the CAS.
const ownPart = 16

// defaults are wide for an owner with hundreds of sessions and thousands of
// versions of ordinary size, some kilobytes each.
func defaults() map[Scope]Amounts {
	return map[Scope]Amounts{
		PerKey:     {Sessions: 1000, Versions: 10_000, Bytes: 64 << 20, Grants: 2000},
		PerAddress: {Sessions: 8000, Versions: 80_000, Bytes: 512 << 20, Grants: 16_000},
		InTotal:    {Sessions: 50_000, Versions: 500_000, Bytes: 4 << 30, Grants: 100_000},
	}
}

// Limit is the most of a measure that a scope may have.
func (l Limits) Limit(s Scope, m Measure) int64 {
	limits := l.set
	if limits == nil {
		limits = defaults()
	}

	if m == Names {
		return namesPerSession * limits[s][Sessions]
	}
	return limits[s][m]
}

// Own is the part of a key's limit within which it is not refused because others
// filled the CAS.
func (l Limits) Own(m Measure) int64 { return l.Limit(PerKey, m) / ownPart }

// Reserve is Limit and, for a key's own part, a sixteenth more that is kept for
// such: so a full CAS goes on taking updates, and not without end.
func (l Limits) Reserve(s Scope, m Measure, own bool) int64 {
	limit := l.Limit(s, m)
	if own {
		limit += limit / ownPart
	}
	return limit
}
