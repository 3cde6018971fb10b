package manager

import (
	"fmt"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// TestInTurn: who wants to start many comes after others' first.
func TestInTurn(t *testing.T) {
	now := time.Now()
	var all []candidate
	for i := range 3 {
		all = append(all, candidate{owner: anna, created: now.Add(time.Duration(i)), start: startAttempt{InstanceSpec{ID: ident.AttemptID(fmt.Sprint("anna-", i))}}})
	}
	all = append(all, candidate{owner: bert, created: now.Add(time.Hour), start: startAttempt{InstanceSpec{ID: "bert-0"}}})
	var got []string
	for _, c := range inTurn(all) {
		got = append(got, c.start.key())
	}
	if want := "[anna-0 bert-0 anna-1 anna-2]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// TestMachineMemory: what all apps may use together, the operator's included, is
// compared with what the machine has: warned of, or refused.
func TestMachineMemory(t *testing.T) {
	const gib = 1 << 30
	mine := &App{ID: "1", Owner: theOperator, Current: wish(4, gib, 1)}
	lost := &App{ID: "2", Owner: bert, Lost: wish(4, gib, 2)} // nothing of it runs
	for name, c := range map[string]struct {
		refuse   bool
		app      *App
		rev      *Revision
		warns    bool
		refused  bool
		memory   uint64
		existing *App
	}{
		"fits":                       {app: &App{ID: "3", Owner: anna}, rev: wish(4, gib, 3), memory: 8 * gib},
		"more, warned of":            {app: &App{ID: "3", Owner: anna}, rev: wish(5, gib, 3), memory: 8 * gib, warns: true},
		"more, refused":              {app: &App{ID: "3", Owner: anna}, rev: wish(5, gib, 3), memory: 8 * gib, refuse: true, refused: true},
		"the operator's own too":     {app: mine, rev: wish(9, gib, 1), memory: 8 * gib, refuse: true, refused: true},
		"smaller, though still more": {app: mine, rev: wish(3, gib, 1), memory: 2 * gib, refuse: true, warns: true},
		"nobody counts":              {app: mine, rev: wish(100, gib, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			m := kept(KeyLimits{}, mine, lost)
			m.cfg.Memory = MachineMemory{Total: c.memory, Refuse: c.refuse}
			warning, err := m.checkMemory(c.app, c.rev)
			if (warning != nil) != c.warns || (err != nil) != c.refused {
				t.Fatalf("warning %v, refusal %v", warning, err)
			}
			if c.refused {
				wantRule(t, err, "memory_overcommitted")
			}
		})
	}
}

// TestLargerThanTheMachine: an instance that can never have its memory is refused,
// whatever all of them together may have.
func TestLargerThanTheMachine(t *testing.T) {
	m := kept(KeyLimits{})
	m.cfg.Memory = MachineMemory{Total: 24 << 30}
	rev := &Revision{Instances: 1, Memory: 100 << 30}
	err := m.checkFits(&App{ID: "3"}, rev)
	wantRule(t, err, "memory")
	if p := problem.From(err); p.Kind != problem.Invalid || p.Actual != "100G for each instance is more than this machine has" || p.Expected != "at most 24G" {
		t.Error(err)
	}
	rev.Memory = 24 << 30
	if err := m.checkFits(&App{ID: "3"}, rev); err != nil {
		t.Error(err)
	}
}

func TestFollowersAreBounded(t *testing.T) {
	var f followers
	few := class{things: 3, key: 5, all: 10}
	enter := func(key ident.KeyHash, app string, c class) func() {
		t.Helper()
		leave, err := f.enter(key, app, c)
		if err != nil {
			t.Fatal(err)
		}
		return leave
	}
	refused := func(key ident.KeyHash, app string, c class) {
		t.Helper()
		_, err := f.enter(key, app, c)
		wantRule(t, err, "followers")
		if problem.KindOf(err) != problem.Unavailable {
			t.Errorf("kind %s", problem.KindOf(err))
		}
	}

	// An app counts once, each time events are followed for itself.
	leave := []func(){enter(anna, "shop", few), enter(anna, "shop", few), enter(anna, "", few), enter(anna, "", few)}
	refused(anna, "", few)
	refused(anna, "forum", few)
	leave[2]()
	leave = append(leave, enter(anna, "forum", few))
	leave[4]()
	leave = append(leave, enter(anna, "", few))

	// Of one app no more instances are followed than of all, nor by all keys together.
	enter(anna, "shop", few)
	refused(anna, "shop", few)
	for range 5 {
		enter(bert, "shop", class{all: 10})
	}
	refused(bert, "shop", class{all: 10})
	enter(theOperator, "shop", class{all: 20})
	for _, l := range []func(){leave[0], leave[1], leave[3], leave[5]} {
		l()
	}
	enter(anna, "forum", few)
}
