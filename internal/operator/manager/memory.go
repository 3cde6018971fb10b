package manager

import (
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// MachineMemory is what the machine has, and whether apps may ask for more of it
// together. The zero value counts nothing.
type MachineMemory struct {
	Total  uint64 // in bytes
	Refuse bool   // a deployment by which the limits of all instances exceed it; else it is warned of
}

// checkFits refuses an instance that is larger than the machine: no other limit says
// that more plainly. An app that exists may always stay as it is or become smaller.
func (m *Manager) checkFits(a *App, rev *Revision) error {
	limit, was := m.cfg.Memory.Total, a.desired()
	if limit == 0 || rev.Memory <= limit || was != nil && rev.Memory <= was.Memory {
		return nil
	}
	return problem.New(problem.Invalid, problem.RuleMemory, "%s for each instance is more than this machine has", managerapi.FormatMemory(rev.Memory)).
		Want("at most %s", managerapi.FormatMemory(limit)).
		Fix("give --memory smaller")
}

// checkMemory compares the limits of all instances of all apps, whoever's they are,
// with the machine's memory. It returns a warning where that is enough, and refuses
// where it isn't. An app that exists may always stay as it is or become smaller.
// Callers hold mu.
func (m *Manager) checkMemory(a *App, rev *Revision) (warning *problem.Error, err error) {
	limit := m.cfg.Memory.Total
	if limit == 0 {
		return nil, nil
	}

	var others, before, after usage
	for _, b := range m.state.Apps {
		switch {
		case b.Removing:
		case b.ID == a.ID:
			before.add(b.desired())
		case b.Current != nil || b.Next != nil:
			others.add(b.desired())
		}
	}
	after.add(rev)
	all := others.memory + after.memory
	if all <= limit {
		return nil, nil
	}

	p := problem.New(problem.Denied, ruleMemoryOvercommitted, "the instances of all apps may use %s of memory together, of which this app's %s", managerapi.FormatMemory(all), managerapi.FormatMemory(after.memory)).
		Want("at most the %s that this machine has", managerapi.FormatMemory(limit)).
		Fix("give --memory or --instances smaller; where all of it is used at once, the kernel ends instances")
	if !m.cfg.Memory.Refuse || after.memory <= before.memory {
		return p, nil
	}
	return nil, p.Fix("give --memory or --instances smaller, remove apps that nobody needs, or ask the operator to allow it: %s", restart("--overcommit warn"))
}
