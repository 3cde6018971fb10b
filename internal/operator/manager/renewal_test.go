package manager_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// TestCertificatesAreReplacedInTime: instances whose apps take no new certificate
// are started again, one after the other, before the old one ends.
func TestCertificatesAreReplacedInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Delay: 2 * time.Second, Life: 24 * time.Hour}
		})
		a := w.settled(w.deploy(request()).ID)
		time.Sleep(15 * time.Hour)
		if n := len(w.fake.Started()); n != 4 {
			t.Errorf("%d starts after 15 of 24 hours, want the first 4", n)
		}

		fewest := 3
		for range 4 * 60 * 60 {
			time.Sleep(time.Second)
			if f := w.bal.now(); len(f[0].Endpoints) < fewest {
				fewest = len(f[0].Endpoints)
			}
		}
		if n := len(w.fake.Started()); n != 7 || fewest != 2 {
			t.Errorf("%d starts after 19 hours, and at the least %d instances served; want 7 and 2", n, fewest)
		}
		for _, in := range w.instances("app") {
			if in.State != "running" || in.Restarts != 0 || in.Problem != nil {
				t.Errorf("%+v", in)
			}
		}
		if a, err := w.m.App(alice, ident.AppRef(a.ID)); err != nil || a.State != managerapi.AppReady || len(w.cas.Open()) != 1 {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

// TestRenewalWaitsForTheCAS: an app that runs is not stopped for a certificate
// that nobody can give it.
func TestRenewalWaitsForTheCAS(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Life: 24 * time.Hour}
		})
		w.settled(w.deploy(request()).ID)
		w.cas.SetDown(true)
		time.Sleep(20 * time.Hour)
		asked := w.cas.Asked()
		if n := len(w.fake.Started()); n != 4 || asked > 500 {
			t.Errorf("%d starts while the CAS is away, and it was asked %d times", n, asked)
		}
		w.cas.SetDown(false)
		time.Sleep(time.Hour)
		if n := len(w.fake.Started()); n != 7 {
			t.Errorf("%d starts once it is back, want 7", n)
		}
	})
}

// TestEndedCertificatesAreReplaced: where nobody could give a new certificate in
// time, the instance gets one as soon as somebody can.
func TestEndedCertificatesAreReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Life: 24 * time.Hour}
		})
		w.settled(w.deploy(request()).ID)
		w.cas.SetDown(true)
		time.Sleep(30 * time.Hour)
		if n := len(w.fake.Started()); n != 4 {
			t.Errorf("%d starts while the CAS is away, want the first 4", n)
		}
		w.cas.SetDown(false)
		time.Sleep(time.Hour)
		if n := len(w.fake.Started()); n != 7 {
			t.Errorf("%d starts once it is back, want 7", n)
		}
	})
}

// TestAppsThatTakeANewCertificateAreLeftAlone: their launchers renew at half of
// each certificate's life.
func TestAppsThatTakeANewCertificateAreLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Life: 24 * time.Hour}
		})
		w.settled(w.deploy(request()).ID)
		for range 6 {
			time.Sleep(12 * time.Hour)
			for _, in := range w.instances("app") {
				w.fake.Renew(ident.AttemptID(in.ID+"-1"), 24*time.Hour)
			}
		}
		if n := len(w.fake.Started()); n != 4 {
			t.Errorf("%d starts in three days, want the first 4", n)
		}
	})
}

// TestTheLastOneThatServesGoesOn: where the next attempts can't attest, though the
// manager reaches the CAS, nobody stops the last instance that serves.
func TestTheLastOneThatServesGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		first := map[string]bool{}
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			if s.Port == 0 {
				return backendtest.Script{Exit: true}
			}
			place := s.Labels["instance"]
			if !first[place] {
				first[place] = true
				return backendtest.Script{Life: 24 * time.Hour}
			}
			return backendtest.Script{Hang: true}
		})
		w.settled(w.deploy(request()).ID)
		time.Sleep(23 * time.Hour)
		serving := 0
		for _, in := range w.instances("app") {
			if in.State == "running" && in.Health == "healthy" {
				serving++
			}
		}
		if serving == 0 {
			t.Error("nobody serves any more, with an hour of the certificate left")
		}
	})
}

// TestRenewalDrainsFirst: an instance is stopped for its certificate only when
// nobody is led to it any more.
func TestRenewalDrainsFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Life: 24 * time.Hour}
		})
		stopped := 0
		w.fake.Stopping = func(id ident.AttemptID) {
			stopped++
			for _, e := range w.bal.now()[0].Endpoints {
				if strings.HasPrefix(string(id), e.Instance+"-") {
					t.Errorf("%s is stopped while the balancer leads to it", id)
				}
			}
		}
		w.settled(w.deploy(request()).ID)
		time.Sleep(20 * time.Hour)
		if n := len(w.fake.Started()); n != 7 || stopped != 3 {
			t.Errorf("%d starts and %d stops, want 7 and 3", n, stopped)
		}
	})
}

// drainWorld is one whose operator gives connections so long to end, and whose CAS
// gives certificates of so long a life.
func drainWorld(t *testing.T, drain, life time.Duration) *world {
	w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
		return backendtest.Script{Exit: s.Port == 0, Life: life}
	})
	w.stop()
	limits := manager.DefaultLimits()
	limits.Drain = drain
	w.limits = &limits
	w.start()
	return w
}

// overdue lists the places where an instance runs with a certificate that is over.
func (w *world) overdue() (places []string) {
	w.t.Helper()
	list, err := w.fake.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range list {
		if s.State == manager.StateRunning && !s.CertificateUntil.IsZero() && s.CertificateUntil.Before(time.Now()) {
			places = append(places, s.Labels["instance"])
		}
	}
	return places
}

// TestConnectionsOutlastNoCertificate: clients that never end keep no instance from
// its new certificate, however long they may stay and however many wait for it.
func TestConnectionsOutlastNoCertificate(t *testing.T) {
	for name, c := range map[string]struct {
		drain     time.Duration
		instances int
	}{
		"half a day, three instances": {12 * time.Hour, 3},
		"an hour, ten instances":      {time.Hour, 10},
		"nobody waits":                {0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := drainWorld(t, c.drain, 24*time.Hour)
				req := request()
				req.Instances = c.instances
				w.settled(w.deploy(req).ID)
				for _, in := range w.instances("app") {
					w.bal.hold(in.ID, 1)
				}
				for hour := range 30 {
					time.Sleep(time.Hour)
					if late := w.overdue(); len(late) > 0 {
						t.Fatalf("after %d hours %d of %d instances serve with a certificate that is over", hour+1, len(late), c.instances)
					}
				}
				if n := len(w.fake.Started()); n != 1+2*c.instances {
					t.Errorf("%d starts, want the pull and each instance twice", n)
				}
			})
		})
	}
}

// TestShortCertificates: five instances whose certificates last 100 seconds, whose
// clients never end, and that each take seconds to be there again, are replaced in time
// again and again, while others serve.
func TestShortCertificates(t *testing.T) {
	for _, delay := range []time.Duration{time.Second, 5 * time.Second} {
		t.Run(delay.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
					return backendtest.Script{Exit: s.Port == 0, Life: 100 * time.Second, Delay: delay}
				})
				req := request()
				req.Instances = 5
				a := w.settled(w.deploy(req).ID)
				least := 5
				for second := range 20 * 60 {
					for _, in := range w.instances("app") {
						w.bal.hold(in.ID, 1)
					}
					time.Sleep(time.Second)
					if late := w.overdue(); len(late) > 0 {
						t.Fatalf("after %d seconds with a certificate that is over: %q", second, late)
					}
					now, err := w.m.App(alice, ident.AppRef(a.ID))
					if err != nil {
						t.Fatal(err)
					}
					least = min(least, now.Healthy)
				}
				if least < 2 {
					t.Errorf("%d of 5 served at the least", least)
				}
			})
		})
	}
}

// TestRenewalDuringADrain: while connections to the revision before may still end,
// certificates of the new one are replaced. Nor does an old instance go on for its
// connections when its certificate is over.
func TestRenewalDuringADrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := drainWorld(t, 24*time.Hour, 12*time.Hour)
		w.settled(w.deploy(request()).ID)
		w.bal.hold(w.instances("app")[0].ID, 1)
		w.deploy(request())
		for range 26 {
			time.Sleep(30 * time.Minute)
			if late := w.overdue(); len(late) > 0 {
				t.Fatalf("with a certificate that is over: %q", late)
			}
		}
	})
}

// stuckOne is a Backend that can't stop the instances of one place.
type stuckOne struct {
	manager.Backend
	place string
}

func (b *stuckOne) Stop(ctx context.Context, id ident.AttemptID, grace time.Duration) error {
	if strings.HasPrefix(string(id), b.place+"-") {
		return problem.New(problem.Unavailable, "containerd_hangs", "no answer")
	}
	return b.Backend.Stop(ctx, id, grace)
}

// TestOneThatCannotBeStoppedHoldsUpNoRenewal: the others get their certificates.
func TestOneThatCannotBeStoppedHoldsUpNoRenewal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := drainWorld(t, 0, 2*time.Hour)
		w.settled(w.deploy(request()).ID)
		stuck := w.instances("app")[0].ID
		w.stop()
		w.backend = &stuckOne{w.fake, stuck}
		w.start()
		time.Sleep(2*time.Hour + 10*time.Minute)
		if late := w.overdue(); !slices.Equal(late, []string{stuck}) {
			t.Errorf("with a certificate that is over: %q, want %s alone", late, stuck)
		}
	})
}
