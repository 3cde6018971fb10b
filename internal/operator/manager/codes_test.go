package manager_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
)

// TestRefusedCodeStaysGood: a request that was refused after its code was claimed
// can be mended and handed in again, for a day; then its grant is given back.
func TestRefusedCodeStaysGood(t *testing.T) {
	few := request()
	few.Instances = 1
	for name, wrong := range map[string]struct {
		req  managerapi.DeployRequest
		rule problem.Rule
	}{
		"the port is somebody else's":  {managerapi.DeployRequest{Port: 9999}, "port_taken"},
		"more than the grant":          {managerapi.DeployRequest{Instances: 5}, "grant_instances"},
		"more than the key may have":   {managerapi.DeployRequest{Memory: 16 << 30}, "quota_key_memory"},
		"more than the machine has":    {managerapi.DeployRequest{Memory: 64 << 30}, "memory"},
		"another name than the code's": {managerapi.DeployRequest{Name: "taken"}, "grant_app"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.bal.take(9999, true)
				w.stop()
				w.keys.Memory, w.memory.Total = 32<<30, 48<<30
				w.start()
				other := few
				other.Name, other.Session, other.Port = "taken", "alice/other", 8081
				w.settled(w.deploy(other).ID)

				req := request()
				req.Port = 8082
				req = w.granted(req)
				bad := req
				if wrong.req.Port != 0 {
					bad.Port = wrong.req.Port
				}
				if wrong.req.Instances != 0 {
					bad.Instances = wrong.req.Instances
				}
				if wrong.req.Memory != 0 {
					bad.Memory = wrong.req.Memory
				}
				bad.Name = wrong.req.Name

				for range 2 {
					p := w.refusedDeploy(mallory, bad)
					if p.Rule != wrong.rule || !strings.Contains(p.Mend, "the code can be handed in here again until 2000-01-02T00:0") {
						t.Errorf("refused with %v", p)
					}
				}
				time.Sleep(23 * time.Hour)
				w.stop()
				w.start()
				if a := w.settled(w.deploy(req).ID); a.State != managerapi.AppReady {
					t.Errorf("handed in again: %+v", a)
				}
				time.Sleep(48 * time.Hour)
				if n := len(w.cas.Open()); n != 2 {
					t.Errorf("%d grants are left, want both apps'", n)
				}

				// The next one is never mended.
				bad.Code = w.granted(req).Code
				_ = w.refusedDeploy(mallory, bad)
				time.Sleep(23 * time.Hour)
				if n := len(w.cas.Open()); n != 3 {
					t.Errorf("%d grants after a refusal, want 3", n)
				}
				w.stop()
				w.start()
				time.Sleep(2 * time.Hour)
				if n := len(w.cas.Open()); n != 2 {
					t.Errorf("%d grants after a day, want the apps' two", n)
				}
				req.Code = bad.Code
				if p := w.refusedDeploy(alice, req); p.Rule != "grant_ended" {
					t.Errorf("after that: %v", p)
				}
			})
		})
	}
}

// TestRefusedCodesThatNobodyNeeds: a code that no request can be carried out with, or
// whose app is deployed otherwise meanwhile, keeps no grant alive for a day.
func TestRefusedCodesThatNobodyNeeds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		few := terms(request())
		few.Services = map[ident.ServiceName]owners.GrantedService{"client-app": {Instances: 3}} // and no pull
		req := request()
		req.Code = w.cas.Make(few).String()
		if p := w.refusedDeploy(mallory, req); p.Rule != "grant_instances" || strings.Contains(p.Mend, "handed in") {
			t.Errorf("%v", p)
		}
		time.Sleep(time.Minute)
		if n := len(w.cas.Open()); n != 0 {
			t.Errorf("%d grants are left", n)
		}

		w.bal.take(9999, true)
		req = w.granted(request())
		req.Port = 9999
		if p := w.refusedDeploy(mallory, req); p.Rule != "port_taken" || !strings.Contains(p.Mend, "handed in") {
			t.Errorf("%v", p)
		}
		time.Sleep(time.Minute)
		if n := len(w.cas.Open()); n != 1 {
			t.Errorf("%d grants are left, want the refused one", n)
		}
		a := w.settled(w.deploy(request()).ID)
		time.Sleep(time.Minute)
		if open := w.cas.Open(); len(open) != 1 || open[0] != *a.Grant {
			t.Errorf("grants %v are left, the app's is %v", open, a.Grant)
		}
	})
}

// TestTheOwnersOwnRequest: the owner's command withdraws what it made, and needs
// no word about a code that nobody saw.
func TestTheOwnersOwnRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.bal.take(8080, true)
		if p := w.refusedDeploy(alice, w.granted(request())); p.Rule != "port_taken" || strings.Contains(p.Mend, "handed in") {
			t.Errorf("%v", p)
		}
		time.Sleep(25 * time.Hour)
		if n := len(w.cas.Open()); n != 0 {
			t.Errorf("%d grants are left", n)
		}
	})
}

// TestCodesAreForgotten: used codes are kept as long as their grant, and some of
// those beyond.
func TestCodesAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		w.stop()
		old := time.Now().Add(-time.Hour)
		w.fill(func(i int, c *manager.Change) {
			c.Codes = append(c.Codes, &manager.UsedCode{Grant: grantID(i), Code: ident.Sum(fmt.Append(nil, i)), App: "gone", Used: old.Add(time.Duration(i) * time.Second)})
		})
		w.start()
		time.Sleep(time.Minute)
		w.stop()

		left := w.stored().Codes
		if len(left) != 1001 {
			t.Errorf("%d codes are left", len(left))
		}
		held := false
		for _, u := range left {
			held = held || u.Grant == *a.Grant
		}
		if !held || left[ident.Sum(fmt.Append(nil, 0))] != nil || left[ident.Sum(fmt.Append(nil, 2499))] == nil {
			t.Error("the wrong ones are left")
		}
	})
}

// TestStrangeCASes: what is to be told to CASes that never answer is bounded, and
// who has many of them loses theirs first.
func TestStrangeCASes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.stop()
		now := time.Now()
		w.fill(func(i int, c *manager.Change) {
			n := &manager.Notice{
				ID: fmt.Sprint("back:", i), CAS: ident.KeyHash{0xe0}, CASAddr: "evil:1", Grant: grantID(i),
				Token: owners.NewGrantToken(grantID(i), [32]byte{}), Since: now.Add(time.Duration(i) * time.Second), AppID: "app-0", App: "gone", Owner: mallory,
			}
			if i < 3 {
				n.Owner = alice
			}
			if i == 3 {
				n.CAS, n.CASAddr, n.Since = theCAS, "", now.Add(240*time.Hour)
			}
			c.Notices = append(c.Notices, n)
		})
		w.start()
		time.Sleep(time.Minute)
		w.stop()

		left := w.stored().Notices
		if len(left) < 1000 || len(left) > 1001+16 { // some are being tried
			t.Errorf("%d notices are left", len(left))
		}
		for _, i := range []int{0, 1, 2, 3, 2499} {
			if left[fmt.Sprint("back:", i)] == nil {
				t.Errorf("notice %d is forgotten", i)
			}
		}
	})
}

func grantID(i int) (id owners.GrantID) {
	binary.BigEndian.PutUint32(id[:], uint32(i)+1)
	return id
}

// fill writes 2500 of something into the database of a manager that is stopped.
func (w *world) fill(add func(i int, c *manager.Change)) {
	w.t.Helper()
	w.withDB(func(db *managerdb.DB) error {
		var c manager.Change
		for i := range 2500 {
			add(i, &c)
		}
		_, err := db.Apply(context.Background(), c)
		return err
	})
}

// stored is what the database of a manager that is stopped has.
func (w *world) stored() (s manager.State) {
	w.t.Helper()
	w.withDB(func(db *managerdb.DB) (err error) {
		s, err = db.Load(context.Background())
		return err
	})
	return s
}

func (w *world) withDB(do func(*managerdb.DB) error) {
	w.t.Helper()
	db, err := managerdb.Open(context.Background(), w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := do(db); err != nil {
		w.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		w.t.Fatal(err)
	}
}
