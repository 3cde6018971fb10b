package manager_test

import (
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/trusted/launch"
)

// TestProfileBelongsToTheRevision: what is deployed is launched by the newest
// profile, and a revision from before profiles were written down goes on with
// the first, for which its session has the measurement.
func TestProfileBelongsToTheRevision(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		for _, s := range w.fake.Started() {
			if s.Profile != launch.Newest {
				t.Errorf("%s starts by profile %q, want %q", s.ID, s.Profile, launch.Newest)
			}
		}

		w.stop()
		w.forgetProfiles()
		w.start()
		in := w.instances("app")[0]
		w.fake.Crash(ident.AttemptID(in.ID+"-1"), 1, false)
		time.Sleep(10 * time.Second)
		started := w.fake.Started()
		if s := started[len(started)-1]; string(s.ID) != in.ID+"-2" || s.Profile != "" {
			t.Errorf("restarted as %s by profile %q, want %s by none", s.ID, s.Profile, in.ID+"-2")
		}

		a := w.settled(w.deploy(request()).ID)
		started = w.fake.Started()
		if s := started[len(started)-1]; a.Revision != 2 || s.Profile != launch.Newest {
			t.Errorf("revision %d starts by profile %q, want %q", a.Revision, s.Profile, launch.Newest)
		}
	})
}

// forgetProfiles makes the stored apps those of an earlier release.
func (w *world) forgetProfiles() {
	w.t.Helper()
	db, err := managerdb.Open(w.t.Context(), w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	state, err := db.Load(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, a := range state.Apps {
		a.Current.Profile = ""
		if _, err := db.Apply(w.t.Context(), manager.Change{Apps: []*manager.App{a}}); err != nil {
			w.t.Fatal(err)
		}
	}
}
