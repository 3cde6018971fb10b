package cas

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/connlimit"
)

// measure is one thing that is counted.
type measure int

const (
	countSessions measure = iota
	countVersions
	countBytes  // of sessions' texts and of what the CAS generates for them
	countGrants // that have not ended
	countNames  // of sessions, removed ones included: each stays its creator's
	measures
)

// amounts is so much of every measure.
type amounts [measures]int64

// scope is for whom something is counted.
type scope string

const (
	perKey     scope = "key"     // the client's key: free to make, so that the others hold too
	perAddress scope = "address" // the client's source address
	inTotal    scope = "total"
)

// measureName is a measure as flags, rules and people have it.
var measureName = [measures]string{"sessions", "versions", "bytes", "grants", "names"}

// Quotas are the limits of what a CAS keeps: for each client's key, for each
// source address, and in total. The zero Quotas are the defaults.
type Quotas struct {
	limits map[scope]amounts
}

// namesPerSession is how many names may be held for each session of a quota.
const namesPerSession = 10

// ownPart is the part of a key's quota, and of what all have, that is kept for
// updates and grants of sessions that are there: within it they are not refused
// because others filled the CAS.
const ownPart = 16

// defaultQuotas are wide for an owner with hundreds of sessions and thousands of
// versions of ordinary size, some kilobytes each.
func defaultQuotas() map[scope]amounts {
	return map[scope]amounts{
		perKey:     {countSessions: 1000, countVersions: 10_000, countBytes: 64 << 20, countGrants: 2000},
		perAddress: {countSessions: 8000, countVersions: 80_000, countBytes: 512 << 20, countGrants: 16_000},
		inTotal:    {countSessions: 50_000, countVersions: 500_000, countBytes: 4 << 30, countGrants: 100_000},
	}
}

func (q Quotas) limit(s scope, m measure) int64 {
	limits := q.limits
	if limits == nil {
		limits = defaultQuotas()
	}
	if m == countNames {
		return namesPerSession * limits[s][countSessions]
	}
	return limits[s][m]
}

// reserve is limit and, for a key's own part, a sixteenth more that is kept for
// such: so a full CAS goes on taking updates, and not without end.
func (q Quotas) reserve(s scope, m measure, own bool) int64 {
	limit := q.limit(s, m)
	if own {
		limit += limit / ownPart
	}
	return limit
}

// QuotaUsage is what Set takes, for people.
const QuotaUsage = "SCOPE-WHAT=NUMBER, with SCOPE key, address or total, and WHAT sessions, versions, bytes (also K, M, G) or grants"

// Set changes limits as text says: one or several, parted by commas, such as
// key-bytes=256M,total-sessions=1000. The others stay.
func (q *Quotas) Set(text string) error {
	limits := q.limits
	if limits == nil {
		limits = defaultQuotas()
	}
	for part := range strings.SplitSeq(text, ",") {
		s, m, n, err := parseQuota(part)
		if err != nil {
			return err
		}
		changed := limits[s]
		changed[m] = n
		limits[s] = changed
	}
	q.limits = limits
	return nil
}

// String is what differs from the defaults, as Set takes it.
func (q *Quotas) String() string {
	var out []string
	defaults := defaultQuotas()
	for _, s := range []scope{perKey, perAddress, inTotal} {
		for m := range countNames {
			if n := q.limit(s, m); n != defaults[s][m] {
				out = append(out, fmt.Sprintf("%s-%s=%d", s, measureName[m], n))
			}
		}
	}
	return strings.Join(out, ",")
}

func parseQuota(text string) (scope, measure, int64, error) {
	bad := func() (scope, measure, int64, error) {
		return "", 0, 0, problem.New(problem.Invalid, ruleQuota, "the quota %.80q", text).
			Want(QuotaUsage).
			Fix("write it as in key-bytes=256M")
	}
	name, value, ok := strings.Cut(strings.TrimSpace(text), "=")
	who, what, of := strings.Cut(name, "-")
	s := scope(who)
	if !ok || !of || s != perKey && s != perAddress && s != inTotal {
		return bad()
	}
	for m := range countNames {
		if measureName[m] != what {
			continue
		}
		n, err := parseAmount(m, value)
		if err != nil {
			return bad()
		}
		return s, m, n, nil
	}
	return bad()
}

// parseAmount reads a number above zero; bytes may have a unit of 1024.
func parseAmount(m measure, text string) (int64, error) {
	const most = 1 << 50
	unit := int64(1)
	if m == countBytes && text != "" {
		switch text[len(text)-1] {
		case 'K':
			unit = 1 << 10
		case 'M':
			unit = 1 << 20
		case 'G':
			unit = 1 << 30
		}
		if unit > 1 {
			text = text[:len(text)-1]
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > most/unit {
		return 0, fmt.Errorf("not a number from 1 to %d", int64(most)/unit)
	}
	return n * unit, nil
}

// payer is whose quotas something is counted to. What an older CAS kept has no
// address.
type payer struct {
	Key     ident.KeyHash `json:"key"`
	Address netip.Addr    `json:"address,omitzero"`
}

// payer is the caller as quotas know it.
func (w Caller) payer() payer { return payer{Key: w.Key, Address: connlimit.Source(w.Address)} }

// ledger counts what is kept. It is a matter of memory: what it counts stands in
// rows, and it is counted afresh at start. Whoever is about to commit takes
// first, and gives back where the commit fails. Its lock is held over nothing.
type ledger struct {
	quotas Quotas

	mu        sync.Mutex
	keys      map[ident.KeyHash]*amounts
	addresses map[netip.Addr]*amounts
	total     amounts
}

func newLedger(q Quotas) *ledger {
	return &ledger{quotas: q, keys: map[ident.KeyHash]*amounts{}, addresses: map[netip.Addr]*amounts{}}
}

// count takes without asking: for what is kept already.
func (l *ledger) count(who payer, a amounts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(who, a, 1)
}

// give takes a off what is counted.
func (l *ledger) give(who payer, a amounts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(who, a, -1)
}

// take counts a, or refuses. held says that it belongs to a session that is kept
// already: then others can't crowd the key out of its own part.
func (l *ledger) take(who payer, a amounts, held bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()

	byKey, byAddress := l.keys[who.Key], l.addresses[who.Address]
	for m, n := range a {
		m := measure(m)
		if n <= 0 {
			continue
		}
		limit := l.quotas.limit(perKey, m)
		used := byKey.of(m)
		if used+n > limit {
			return overQuota(perKey, m, "key "+who.Key.Short(), used, n, limit)
		}
		ours := held && used+n <= limit/ownPart
		limit = l.quotas.reserve(perAddress, m, ours)
		if used := byAddress.of(m); used+n > limit {
			return overQuota(perAddress, m, "source address "+who.Address.String(), used, n, limit)
		}
		limit = l.quotas.reserve(inTotal, m, ours)
		if used := l.total[m]; used+n > limit {
			return overQuota(inTotal, m, "this CAS", used, n, limit)
		}
	}

	l.add(who, a, 1)
	return nil
}

// of is so much of a measure; nothing for nil.
func (a *amounts) of(m measure) int64 {
	if a == nil {
		return 0
	}
	return a[m]
}

// add changes all that who is counted to, under l.mu. Entries that became empty
// go, so that passing keys and addresses leave nothing.
func (l *ledger) add(who payer, a amounts, sign int64) {
	adjust(l.keys, who.Key, !who.Key.IsZero(), a, sign)
	adjust(l.addresses, who.Address, who.Address.IsValid(), a, sign)
	for m := range a {
		l.total[m] += sign * a[m]
	}
}

func adjust[K comparable](of map[K]*amounts, k K, known bool, a amounts, sign int64) {
	if !known {
		return
	}
	sum := of[k]
	if sum == nil {
		sum = &amounts{}
		of[k] = sum
	}
	for m := range a {
		sum[m] += sign * a[m]
	}
	if *sum == (amounts{}) {
		delete(of, k)
	}
}

// overQuota is a refusal. It drops nothing: whoever wants room makes it.
func overQuota(s scope, m measure, who string, used, more, limit int64) *problem.Error {
	p := problem.New(problem.Denied, problem.Rule(fmt.Sprintf("quota_%s_%s", s, measureName[m])),
		"%s has %s, and this would take %s more", who, holding(m, used), showAmount(m, more))
	switch s {
	case perKey:
		p = p.Want("at most %s for each key", showAmount(m, limit))
	case perAddress:
		p = p.Want("at most %s for each source address", showAmount(m, limit))
	default:
		p = p.Want("at most %s in all", showAmount(m, limit))
	}

	free, raised := "remove sessions that nobody needs (cupel session rm NAME)", m
	switch m {
	case countGrants:
		free = "withdraw grants that nobody needs (cupel session grants NAME)"
	case countNames:
		free, raised = "use a name again that you had before", countSessions
	}
	return p.Fix("%s, or ask the operator of the CAS for more: cupel up --cas-quota %s-%s=NUMBER", free, s, measureName[raised])
}

// holding is what somebody has, for people.
func holding(m measure, n int64) string {
	switch m {
	case countBytes:
		return showAmount(m, n) + " in session texts"
	case countVersions:
		return showAmount(m, n) + " versions of sessions"
	case countGrants:
		return showAmount(m, n) + " grants that hold"
	case countNames:
		return showAmount(m, n) + " names of sessions, removed ones included"
	}
	return showAmount(m, n) + " " + measureName[m]
}

// showAmount writes bytes in decimal units, and other amounts as they are.
func showAmount(m measure, n int64) string {
	switch {
	case m != countBytes:
		return strconv.FormatInt(n, 10)
	case n < 10_000:
		return fmt.Sprintf("%d bytes", n)
	case n < 10_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	}
	return fmt.Sprintf("%d MB", n/1_000_000)
}
