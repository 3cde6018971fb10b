package manager

import (
	"maps"
	"slices"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// TestForget: failed starts are remembered for attempts that are still to be made,
// images for revisions that are there, and nothing else.
func TestForget(t *testing.T) {
	failed := problem.New(problem.Unavailable, "container_start", "no")
	m := &Manager{
		state: State{
			Apps:     map[string]*App{"a": {ID: "a", Current: &Revision{Image: "new", PullImage: "puller"}}},
			Replicas: map[string]*Replica{"i-1": {ID: "i-1", App: "a", Attempt: 3}},
		},
		startErrors: map[ident.AttemptID]*problem.Error{"i-1-2": failed, "i-1-3": failed, "i-2-1": failed},
		images:      map[ident.ImageRef]imageState{"old": {ready: true}, "new": {ready: true}, "puller": {ready: true}},
	}
	m.forget()
	if got := slices.Sorted(maps.Keys(m.startErrors)); !slices.Equal(got, []ident.AttemptID{"i-1-3"}) {
		t.Errorf("failed starts: %q", got)
	}
	if got := slices.Sorted(maps.Keys(m.images)); !slices.Equal(got, []ident.ImageRef{"new", "puller"}) {
		t.Errorf("images: %q", got)
	}
}
