package manager_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// TestLostInstances: where a machine lost what it wrote down about an instance, the
// manager tells the CAS at once that it is no more, so that the next one needn't wait
// until its rights lapse, and its events say what happens.
func TestLostInstances(t *testing.T) {
	for name, write := range map[string]bool{"reads": false, "writes a volume": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, nil)
				req := request()
				if req.Instances = 1; write {
					req = w.writing()
				}
				a := w.settled(w.deploy(req).ID)
				lost := w.instances("app")[0]
				w.stop()
				if err := w.fake.Remove(t.Context(), ident.AttemptID(lost.ID+"-1")); err != nil {
					t.Fatal(err)
				}
				w.start()

				time.Sleep(5 * time.Second)
				if !slices.Contains(w.cas.Gone(), lost.InstanceID) {
					t.Errorf("the CAS was told of %v, want %v", w.cas.Gone(), lost.InstanceID)
				}
				if in := w.instances("app")[0]; in.ID != lost.ID || in.Restarts != 1 || in.InstanceID == lost.InstanceID {
					t.Errorf("%+v", in)
				}
				if a, err := w.m.App(alice, ident.AppRef(a.ID)); err != nil || a.State != managerapi.AppReady {
					t.Errorf("%+v, %v", a, err)
				}
				said := w.messages()
				if n := strings.Count(said, "lost what it wrote down about the instance, which counts as ended; starting it again in 1 second"); n != 1 {
					t.Errorf("told %d times:\n%s", n, said)
				}
				if strings.Contains(said, "what it wrote since it started is lost") != write {
					t.Errorf("it tells of lost writes, though it writes: %t:\n%s", write, said)
				}
			})
		})
	}
}

// TestLostPull: a deployment pulls again, and serves.
func TestLostPull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		pulls := 0
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			if s.Port != 0 {
				return backendtest.Script{}
			}
			pulls++
			return backendtest.Script{Exit: pulls > 1}
		})
		a := w.deploy(request())
		time.Sleep(time.Second)
		lost := w.instances("pull")[0]
		w.stop()
		if err := w.fake.Remove(t.Context(), ident.AttemptID(lost.ID+"-1")); err != nil {
			t.Fatal(err)
		}
		w.start()
		if a = w.settled(a.ID); a.State != managerapi.AppReady || pulls != 2 {
			t.Errorf("after %d pulls: %+v", pulls, a)
		}
		if !slices.Contains(w.cas.Gone(), lost.InstanceID) {
			t.Errorf("the CAS was told of %v, want %v", w.cas.Gone(), lost.InstanceID)
		}
		if said := w.messages(); !strings.Contains(said, "lost what it wrote down about the deployment's pull") {
			t.Errorf("told:\n%s", said)
		}
	})
}
