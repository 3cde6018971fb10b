package cas

import (
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/quota"
	"cupel.dev/cupel/internal/trusted/connlimit"
)

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
	quotas quota.Limits

	mu        sync.Mutex
	keys      map[ident.KeyHash]*quota.Amounts
	addresses map[netip.Addr]*quota.Amounts
	total     quota.Amounts
}

// newLedger counts nothing yet.
func newLedger(q quota.Limits) *ledger {
	return &ledger{quotas: q, keys: map[ident.KeyHash]*quota.Amounts{}, addresses: map[netip.Addr]*quota.Amounts{}}
}

// count takes without asking: for what is kept already.
func (l *ledger) count(who payer, a quota.Amounts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(who, a, 1)
}

// give takes a off what is counted.
func (l *ledger) give(who payer, a quota.Amounts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(who, a, -1)
}

// take counts a, or refuses. held says that it belongs to a session that is kept
// already: then others can't crowd the key out of its own part.
func (l *ledger) take(who payer, a quota.Amounts, held bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()

	byKey, byAddress := l.keys[who.Key], l.addresses[who.Address]
	for m, n := range a {
		m := quota.Measure(m)
		if n <= 0 {
			continue
		}

		limit := l.quotas.Limit(quota.PerKey, m)
		used := usedOf(byKey, m)
		if used+n > limit {
			return overQuota(quota.PerKey, m, "key "+who.Key.Short(), used, n, limit)
		}

		ours := held && used+n <= l.quotas.Own(m)
		limit = l.quotas.Reserve(quota.PerAddress, m, ours)
		if used := usedOf(byAddress, m); used+n > limit {
			return overQuota(quota.PerAddress, m, "source address "+who.Address.String(), used, n, limit)
		}

		limit = l.quotas.Reserve(quota.InTotal, m, ours)
		if used := l.total[m]; used+n > limit {
			return overQuota(quota.InTotal, m, "this CAS", used, n, limit)
		}
	}

	l.add(who, a, 1)
	return nil
}

// usedOf is so much of a measure; nothing where a is nil.
func usedOf(a *quota.Amounts, m quota.Measure) int64 {
	if a == nil {
		return 0
	}
	return a[m]
}

// add changes all that who is counted to, under l.mu. Entries that became empty
// go, so that passing keys and addresses leave nothing.
func (l *ledger) add(who payer, a quota.Amounts, sign int64) {
	adjust(l.keys, who.Key, !who.Key.IsZero(), a, sign)
	adjust(l.addresses, who.Address, who.Address.IsValid(), a, sign)
	for m := range a {
		l.total[m] += sign * a[m]
	}
}

// adjust changes what one of a kind of payers is counted, where it is known.
func adjust[K comparable](of map[K]*quota.Amounts, k K, known bool, a quota.Amounts, sign int64) {
	if !known {
		return
	}
	sum := of[k]
	if sum == nil {
		sum = &quota.Amounts{}
		of[k] = sum
	}

	for m := range a {
		sum[m] += sign * a[m]
	}
	if *sum == (quota.Amounts{}) {
		delete(of, k)
	}
}

// overQuota is a refusal. It drops nothing: whoever wants room makes it.
func overQuota(s quota.Scope, m quota.Measure, who string, used, more, limit int64) *problem.Error {
	p := problem.New(problem.Denied, quotaRules[s][m], "%s has %s, and this would take %s more", who, holding(m, used), showAmount(m, more))
	switch s {
	case quota.PerKey:
		p = p.Want("at most %s for each key", showAmount(m, limit))
	case quota.PerAddress:
		p = p.Want("at most %s for each source address", showAmount(m, limit))
	default:
		p = p.Want("at most %s in all", showAmount(m, limit))
	}

	free, raised := "remove sessions that nobody needs (cupel session rm NAME)", m
	switch m {
	case quota.Grants:
		free = "withdraw grants that nobody needs (cupel session grants NAME)"
	case quota.Names:
		free, raised = "use a name again that you had before", quota.Sessions
	}
	return p.Fix("%s, or ask the operator of the CAS for more: cupel up --cas-quota %s-%s=NUMBER", free, s, raised)
}

// holding is what somebody has, for people.
func holding(m quota.Measure, n int64) string {
	switch m {
	case quota.Bytes:
		return showAmount(m, n) + " in session texts"
	case quota.Versions:
		return showAmount(m, n) + " versions of sessions"
	case quota.Grants:
		return showAmount(m, n) + " grants that hold"
	case quota.Names:
		return showAmount(m, n) + " names of sessions, removed ones included"
	}
	return showAmount(m, n) + " " + m.String()
}

// showAmount writes bytes in decimal units, and other amounts as they are.
func showAmount(m quota.Measure, n int64) string {
	switch {
	case m != quota.Bytes:
		return strconv.FormatInt(n, 10)
	case n < 10_000:
		return fmt.Sprintf("%d bytes", n)
	case n < 10_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	}
	return fmt.Sprintf("%d MB", n/1_000_000)
}
