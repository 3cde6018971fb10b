package debian

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Universe is everything that a set of indices offers.
type Universe struct {
	newest    map[string]Package
	providers map[string][]provision
}

// provision is a package that provides a name, in a version if it says one.
type provision struct{ by, version string }

// NewUniverse joins indices. Of each package the newest version counts: a
// security fix beats what it fixes, whoever prefers otherwise.
func NewUniverse(indices ...[]Package) *Universe {
	u := &Universe{newest: map[string]Package{}, providers: map[string][]provision{}}
	for _, index := range indices {
		for _, p := range index {
			if old, ok := u.newest[p.Name]; !ok || CompareVersions(p.Version, old.Version) > 0 {
				u.newest[p.Name] = p
			}
		}
	}

	for name, p := range u.newest {
		for _, alternatives := range parseRelations(p.Provides) {
			for _, a := range alternatives {
				u.providers[a.name] = append(u.providers[a.name], provision{name, a.version})
			}
		}
	}

	for _, by := range u.providers {
		sort.Slice(by, func(i, j int) bool { return by[i].by < by[j].by })
	}

	return u
}

// Newest returns the newest version of a package.
func (u *Universe) Newest(name string) (Package, bool) {
	p, ok := u.newest[name]
	return p, ok
}

// Resolve returns the wanted packages and all that they depend on, sorted by
// name. Excluded packages count as present and are left out. Recommendations
// are not followed. The answer depends on nothing but the arguments, so that
// two parties with the same indices get the same list.
func (u *Universe) Resolve(wanted, excluded []string) ([]Package, error) {
	chosen := map[string]Package{}
	left := map[string]bool{}

	for _, name := range excluded {
		left[name] = true
	}

	var queue []string
	choose := func(name string) {
		if _, ok := chosen[name]; !ok {
			chosen[name] = u.newest[name]
			queue = append(queue, name)
		}
	}

	for _, name := range wanted {
		if _, ok := u.newest[name]; !ok {
			return nil, fmt.Errorf("package %s is in none of the indices", name)
		}

		if left[name] {
			return nil, fmt.Errorf("package %s is both wanted and excluded", name)
		}
		choose(name)
	}

	for len(queue) > 0 {
		p := chosen[queue[0]]
		queue = queue[1:]

		for _, alternatives := range parseRelations(p.Depends) {
			name, err := u.satisfy(alternatives, chosen, left)
			if err != nil {
				return nil, fmt.Errorf("package %s: %w", p.Name, err)
			}

			if name != "" {
				choose(name)
			}
		}
	}

	all := make([]Package, 0, len(chosen))
	for _, p := range chosen {
		all = append(all, p)
	}

	slices.SortFunc(all, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// satisfy names the package to add for one dependency; "" if it is there. What is chosen
// already counts first, then the first alternative that the indices have, as itself before
// one that provides it (Debian Policy, sections 7.1 and 7.5).
func (u *Universe) satisfy(alternatives []relation, chosen map[string]Package, left map[string]bool) (string, error) {
	for _, a := range alternatives {
		if left[a.name] {
			return "", nil
		}

		if p, ok := chosen[a.name]; ok && a.admits(p.Version) {
			return "", nil
		}

		for _, pr := range u.providers[a.name] {
			if _, ok := chosen[pr.by]; (ok || left[pr.by]) && a.admitsProvided(pr.version) {
				return "", nil
			}
		}
	}

	for _, a := range alternatives {
		if p, ok := u.newest[a.name]; ok && a.admits(p.Version) {
			return a.name, nil
		}

		for _, pr := range u.providers[a.name] {
			if a.admitsProvided(pr.version) {
				return pr.by, nil
			}
		}
	}

	return "", fmt.Errorf("nothing in the indices satisfies %v", alternatives)
}

// relation is one alternative of a dependency: NAME (OP VERSION).
type relation struct{ name, op, version string }

// String is the relation as Debian writes it.
func (r relation) String() string {
	if r.op == "" {
		return r.name
	}
	return r.name + " (" + r.op + " " + r.version + ")"
}

// admits tells whether a version fits (Debian Policy, section 7.1).
func (r relation) admits(version string) bool {
	c := CompareVersions(version, r.version)
	switch r.op {
	case "":
		return true
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	case ">>":
		return c > 0
	}
	return false
}

// admitsProvided tells whether a provision fits: a versioned dependency needs a versioned one
// (Debian Policy, section 7.5).
func (r relation) admitsProvided(version string) bool {
	return r.op == "" || version != "" && r.admits(version)
}

// parseRelations reads a relationship field (Debian Policy, section 7.1): groups joined by
// ",", alternatives by "|". What it can't read becomes a relation that nothing satisfies.
func parseRelations(field string) [][]relation {
	var all [][]relation
	for group := range strings.SplitSeq(field, ",") {
		if strings.TrimSpace(group) == "" {
			continue
		}

		var alternatives []relation
		for text := range strings.SplitSeq(group, "|") {
			alternatives = append(alternatives, parseRelation(strings.TrimSpace(text)))
		}

		all = append(all, alternatives)
	}
	return all
}

// parseRelation reads one alternative.
func parseRelation(text string) relation {
	name, constraint, versioned := strings.Cut(text, "(")

	name = strings.TrimSpace(name)
	name, _, _ = strings.Cut(name, ":") // :any, an architecture

	r := relation{name: name}

	if !versioned {
		return r
	}
	constraint, ok := strings.CutSuffix(strings.TrimSpace(constraint), ")")

	i := strings.IndexFunc(constraint, func(c rune) bool { return !strings.ContainsRune("<=>", c) })
	if !ok || i <= 0 {
		r.op = "unreadable"
		return r
	}

	r.op = constraint[:i]
	r.version = strings.TrimSpace(constraint[i:])
	return r
}
