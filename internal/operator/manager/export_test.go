package manager

// Work counts what the loop did so far: passes, plans in them, apps and instances
// that these looked at, and calls.
func (m *Manager) Work() (passes, plans, visited, calls int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.work.passes, m.work.plans, m.work.visited, m.work.calls
}
