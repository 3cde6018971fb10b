package cli

import (
	"testing"
	"time"

	"cupel.dev/cupel/client/manager"
)

// TestStateOfAnInstance: a person sees what an instance is at, where it is at
// something in particular.
func TestStateOfAnInstance(t *testing.T) {
	g := &globals{now: time.Now}
	for want, i := range map[string]manager.Instance{
		"mounting":   {State: "starting", Phase: "mounting"},
		"running":    {State: "running", Phase: "running"},
		"stopping":   {State: "stopping", Phase: "running"},
		"committing": {State: "stopping", Phase: "committing"},
		"exited":     {State: "exited", Phase: "committing"},
	} {
		if got := g.instanceRow(i)[2]; got != want {
			t.Errorf("%+v is shown as %q, want %q", i, got, want)
		}
	}
}
