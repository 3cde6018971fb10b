package manager

import (
	"maps"
	"slices"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
)

// Launchers lists the launchers that revisions name, which their instances may
// have to be started with again.
func (m *Manager) Launchers() []ident.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	named := map[ident.Digest]bool{}
	for _, a := range m.state.Apps {
		for _, rev := range a.revisions() {
			if !rev.Launcher.IsZero() {
				named[rev.Launcher] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(named), func(a, b ident.Digest) int { return slices.Compare(a[:], b[:]) })
}

// OldLaunchers lists the apps that run on a launcher before an upgrade. They go
// on, and are started with it again; their next deployment runs on the new one,
// which their owners have to vouch for first.
func (m *Manager) OldLaunchers() []managerapi.App {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []managerapi.App
	for _, id := range slices.Sorted(maps.Keys(m.state.Apps)) {
		a := m.state.Apps[id]
		if a.Current != nil && !a.Current.Launcher.IsZero() && a.Current.Launcher != m.cfg.Launcher {
			out = append(out, m.view(a))
		}
	}
	return out
}

// revisions are those of the app that still count.
func (a *App) revisions() []*Revision {
	var out []*Revision
	for _, rev := range []*Revision{a.Current, a.Next} {
		if rev != nil {
			out = append(out, rev)
		}
	}
	return out
}

// tellOldLauncher tells, once for each launcher, that an app's next deployment needs
// its owner first.
func (p *planner) tellOldLauncher(a *App) {
	rev := a.Current
	if rev == nil || rev.Launcher.IsZero() || p.launcher.IsZero() || rev.Launcher == p.launcher || a.LauncherTold == p.launcher {
		return
	}

	p.editApp(a).LauncherTold = p.launcher
	p.warn(a, nil, "launcher_upgraded", "this machine's launcher is now %.12s; revision %d goes on with %.12s. Before the next deployment its owner has to "+
		"measure the runtimes again (cupel runtime measure) and update the session (cupel session create --update)", p.launcher, rev.Number, rev.Launcher)
}
