package quota

import (
	"fmt"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/problem"
)

// Usage is what Set takes, for people.
const Usage = "SCOPE-WHAT=NUMBER, with SCOPE key, address or total, and WHAT sessions, versions, bytes (also K, M, G) or grants"

// Set changes limits as text says: one or several, parted by commas, such as
// key-bytes=256M,total-sessions=1000. The others stay.
func (l *Limits) Set(text string) error {
	limits := l.set
	if limits == nil {
		limits = defaults()
	}

	for part := range strings.SplitSeq(text, ",") {
		s, m, n, err := parse(part)
		if err != nil {
			return err
		}
		changed := limits[s]
		changed[m] = n
		limits[s] = changed
	}

	l.set = limits
	return nil
}

// String is what differs from the defaults, as Set takes it.
func (l *Limits) String() string {
	var out []string
	usual := defaults()
	for _, s := range []Scope{PerKey, PerAddress, InTotal} {
		for m := range Names {
			if n := l.Limit(s, m); n != usual[s][m] {
				out = append(out, fmt.Sprintf("%s-%s=%d", s, m, n))
			}
		}
	}
	return strings.Join(out, ",")
}

// parse reads one limit. That of names follows from the one of sessions, and
// can't be set.
func parse(text string) (Scope, Measure, int64, error) {
	bad := func() (Scope, Measure, int64, error) {
		return "", 0, 0, problem.New(problem.Invalid, ruleQuota, "the quota %.80q", text).
			Want(Usage).
			Fix("write it as in key-bytes=256M")
	}

	name, value, ok := strings.Cut(strings.TrimSpace(text), "=")
	who, what, of := strings.Cut(name, "-")
	s := Scope(who)
	if !ok || !of || s != PerKey && s != PerAddress && s != InTotal {
		return bad()
	}

	for m := range Names {
		if names[m] != what {
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
func parseAmount(m Measure, text string) (int64, error) {
	const most = 1 << 50
	unit := int64(1)
	if m == Bytes && text != "" {
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
