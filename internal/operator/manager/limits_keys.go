package manager

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// KeyLimits are what each key that deploys may have here. The operator's own key
// has no limits. Zero fields: none.
type KeyLimits struct {
	Apps      int
	Instances int    // of all its apps, as desired
	Memory    uint64 // of all these instances, in bytes
	Ports     int    // public ones, of all its apps
	Followers int    // apps whose logs it follows, and times events, at once
	// LowPorts are the ports below 1024 that apps may have; nil: none.
	LowPorts []uint16
	// Listed says whether a key may deploy; nil: everybody may.
	Listed func(ident.KeyHash) (bool, error)
}

// DefaultKeyLimits are wide for one owner on a machine with so much memory, of
// which they leave a quarter to others.
func DefaultKeyLimits(memory uint64) KeyLimits {
	return KeyLimits{
		Apps:      50,
		Instances: 500,
		Memory:    memory / 4 * 3,
		Ports:     50,
		Followers: 20,
	}
}

// KeyLimitsUsage is what Set takes, for people.
const KeyLimitsUsage = "apps=N, instances=N, memory=SIZE, ports=N or followers=N, several parted by commas"

// Set changes limits as text says, for instance apps=20,memory=64G.
func (l *KeyLimits) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")

		number := map[string]*int{"apps": &l.Apps, "instances": &l.Instances, "ports": &l.Ports, "followers": &l.Followers}[name]
		if name == "memory" {
			size, err := managerapi.ParseMemory(value)
			if err != nil {
				return problem.New(problem.Invalid, ruleAppQuota, "the limit %.80q: %s", part, problem.From(err).Actual).
					Want("a size").Fix("write it as in memory=64G")
			}
			l.Memory = size
			continue
		}

		n, err := strconv.Atoi(value)
		if number == nil || err != nil || n < 1 {
			return problem.New(problem.Invalid, ruleAppQuota, "the limit %.80q", part).
				Want(KeyLimitsUsage).
				Fix("write it as in apps=20,memory=64G")
		}
		*number = n
	}
	return nil
}

// ParsePorts reads ports parted by commas.
func ParsePorts(text string) ([]uint16, error) {
	var out []uint16
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 16)
		if err != nil || n == 0 {
			return nil, problem.New(problem.Invalid, ruleLowPorts, "the port %.40q", part).Want("numbers from 1 to 65535, parted by commas").Fix("write them as in --low-ports 80,443")
		}
		out = append(out, uint16(n))
	}
	return out, nil
}

// firstOrdinaryPort ends the ports that are the machine's own: whoever took 80 and 443
// first would be what everybody takes for the machine.
const firstOrdinaryPort = 1024

// checkKey refuses a revision that its app's key may not have: a port below 1024, or
// more than the key's limits. An app that exists may always become smaller. Callers hold
// mu.
func (m *Manager) checkKey(a *App, rev *Revision) error {
	if a.Owner == m.cfg.Operator {
		return nil
	}

	if rev.Port < firstOrdinaryPort && !slices.Contains(m.cfg.Keys.LowPorts, rev.Port) {
		return problem.New(problem.Denied, ruleLowPort, "the public port %d", rev.Port).
			Want("a port from %d up, or one that the operator lets apps have", firstOrdinaryPort).
			Fix("give another --port, or ask the operator to allow it: %s", restart("--low-ports "+lowPorts(append(slices.Clone(m.cfg.Keys.LowPorts), rev.Port))))
	}

	return m.checkQuota(a, rev)
}

// restart is how a cupeld that runs is given another flag. One that is started without a
// flag that it had goes by that one's default again.
func restart(flag string) string {
	return "kill cupeld (apps go on), then start it with its other flags and this one: cupel up " + flag + " …; a service has them in its unit"
}

// lowPorts is a list as --low-ports has it.
func lowPorts(ports []uint16) string {
	var out []string
	for _, port := range ports {
		out = append(out, strconv.Itoa(int(port)))
	}
	return strings.Join(out, ",")
}

// checkListed refuses a key that is not listed. The list is read, which may take any time:
// callers don't hold mu.
func (m *Manager) checkListed(key ident.KeyHash) error {
	if m.cfg.Keys.Listed == nil || key == m.cfg.Operator {
		return nil
	}
	listed, err := m.cfg.Keys.Listed(key)
	if err != nil {
		return err
	}

	if !listed {
		return problem.New(problem.Denied, ruleKeyNotListed, "key %s may not deploy here", key).
			Want("a key that the operator listed").
			Fix("ask the operator to add it to the file of cupel up --deploy-keys")
	}
	return nil
}

// usage is what a key has, or one of its apps.
type usage struct {
	apps, instances, ports int
	memory                 uint64
}

// add counts one more app, of that revision.
func (u *usage) add(rev *Revision) {
	u.apps++
	if rev == nil {
		return
	}

	u.instances += rev.Instances
	u.memory += uint64(rev.Instances) * rev.Memory
	u.ports++
}

// desired is what an app is to be, or was to be when it failed.
func (a *App) desired() *Revision {
	switch {
	case a.Next != nil:
		return a.Next
	case a.Current != nil:
		return a.Current
	}
	return a.Lost
}

// checkQuota refuses a revision by which its app's key would have more than its limits.
// Callers hold mu.
func (m *Manager) checkQuota(a *App, rev *Revision) error {
	var others, before, after usage
	for _, b := range m.state.Apps {
		switch {
		case b.Owner != a.Owner:
		case b.ID == a.ID:
			before.add(b.desired())
		default:
			others.add(b.desired())
		}
	}
	after.add(rev)

	limits := m.cfg.Keys
	for _, q := range []struct {
		rule                         problem.Rule
		name                         string
		others, before, after, limit uint64
	}{
		{ruleQuotaKeyApps, "apps", uint64(others.apps), uint64(before.apps), uint64(after.apps), uint64(limits.Apps)},
		{ruleQuotaKeyInstances, "instances", uint64(others.instances), uint64(before.instances), uint64(after.instances), uint64(limits.Instances)},
		{ruleQuotaKeyMemory, "memory", others.memory, before.memory, after.memory, limits.Memory},
		{ruleQuotaKeyPorts, "ports", uint64(others.ports), uint64(before.ports), uint64(after.ports), uint64(limits.Ports)},
	} {
		if q.limit == 0 || q.after <= q.before || q.others+q.after <= q.limit {
			continue
		}

		show := func(n uint64) string { return fmt.Sprintf("%d %s", n, q.name) }
		if q.rule == ruleQuotaKeyMemory {
			show = func(n uint64) string { return managerapi.FormatMemory(n) + " of memory" }
		}
		return problem.New(problem.Denied, q.rule, "the key's apps have %s, and this one would have %s", show(q.others), show(q.after)).
			Want("at most %s for each key", show(q.limit)).
			Fix("remove apps that nobody needs (cupel rm --app APP), ask for less, or ask the operator for more: %s", restart("--app-quota "+q.name+"=NUMBER"))
	}
	return nil
}
