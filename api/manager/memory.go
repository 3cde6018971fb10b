package manager

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/problem"
)

// Bounds of an instance's memory limit in bytes.
const (
	MinMemory = 32 << 20
	MaxMemory = 1 << 42
)

var units = map[string]uint64{
	"": 1, "B": 1,
	"K": 1 << 10, "KI": 1 << 10, "KB": 1 << 10, "KIB": 1 << 10,
	"M": 1 << 20, "MI": 1 << 20, "MB": 1 << 20, "MIB": 1 << 20,
	"G": 1 << 30, "GI": 1 << 30, "GB": 1 << 30, "GIB": 1 << 30,
}

// ParseMemory reads a memory limit such as 256M, 1Gi, 512MiB or bytes: a whole
// number and a unit, all units powers of 1024, in any case of letters.
func ParseMemory(s string) (uint64, error) {
	bad := func(why string) error {
		return problem.New(problem.Invalid, problem.RuleMemory, "%.40q: %s", s, why).
			Want("a size from %s to %s", FormatMemory(MinMemory), FormatMemory(MaxMemory)).
			Fix("give a whole number and a unit, like 256M or 1Gi")
	}

	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		i = len(s)
	}
	if i == 0 {
		return 0, bad("not a size")
	}

	n, err := strconv.ParseUint(s[:i], 10, 64)
	if err != nil {
		return 0, bad("too large")
	}

	unit, ok := units[strings.ToUpper(s[i:])]
	if !ok {
		return 0, bad("unknown unit")
	}

	hi, n := bits.Mul64(n, unit)
	switch {
	case hi != 0 || n > MaxMemory:
		return 0, bad("too large")
	case n < MinMemory:
		return 0, bad("too small to start anything in")
	}

	return n, nil
}

// FormatMemory writes n bytes for people: 256M, 1G, 1.5G.
func FormatMemory(n uint64) string {
	switch {
	case n >= 1<<40 && n%(1<<40) == 0:
		return fmt.Sprintf("%dG", n>>30)
	case n >= 1<<30:
		return trim(float64(n)/(1<<30)) + "G"
	case n >= 1<<20:
		return trim(float64(n)/(1<<20)) + "M"
	case n >= 1<<10:
		return trim(float64(n)/(1<<10)) + "K"
	}
	return strconv.FormatUint(n, 10) + "B"
}

func trim(f float64) string { return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") }
