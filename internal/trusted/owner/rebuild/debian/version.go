package debian

import (
	"strconv"
	"strings"
)

// CompareVersions orders Debian version numbers (deb-version(7)): negative,
// zero or positive as a is older than, the same as, or newer than b.
func CompareVersions(a, b string) int {
	ea, ua, ra := splitVersion(a)
	eb, ub, rb := splitVersion(b)

	if ea != eb {
		if ea < eb {
			return -1
		}
		return 1
	}

	if c := comparePart(ua, ub); c != 0 {
		return c
	}

	return comparePart(ra, rb)
}

// splitVersion parts [EPOCH:]UPSTREAM[-REVISION] (deb-version(7), FORMAT).
func splitVersion(v string) (epoch uint64, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		if n, err := strconv.ParseUint(e, 10, 32); err == nil {
			epoch = n
			v = rest
		}
	}

	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}

	return epoch, v, ""
}

// comparePart alternates between stretches without and with digits (deb-version(7), SORTING
// ALGORITHM).
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !isDigit(a[0]) || b != "" && !isDigit(b[0]) {
			if c := weight(a) - weight(b); c != 0 {
				return c
			}
			a, b = a[1:], b[1:] // equal weights other than 0: both have a character
		}

		na, nb := digits(a), digits(b)
		a, b = a[len(na):], b[len(nb):]
		na, nb = strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")

		if len(na) != len(nb) {
			return len(na) - len(nb)
		}

		if c := strings.Compare(na, nb); c != 0 {
			return c
		}
	}

	return 0
}

// weight of the first character: "~" before the end of the part (a digit ends
// it as well), letters before everything else.
func weight(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z':
		return int(s[0])
	}

	return int(s[0]) + 256
}

// digits are those that a string begins with.
func digits(s string) string {
	i := 0
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	return s[:i]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
