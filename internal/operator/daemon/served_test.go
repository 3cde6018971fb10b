package daemon

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/problem"
)

// TestRepairKeepsThatItServed: a power cut that damages ports.json and takes the
// operator's key doesn't have the key made anew, nor is the manager's database missed any
// less by the next start.
func TestRepairKeepsThatItServed(t *testing.T) {
	for _, kind := range []string{"empty", "garbage", "a folder", "a pipe"} {
		l, err := newLayout(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		p := newParts(l, slog.New(slog.DiscardHandler))
		if err := damages[kind](l.path(portsFile)); err != nil {
			t.Fatal(err)
		}
		if err := p.repair(t.Context()); err != nil {
			t.Fatal(err)
		}
		if last := loadPorts(l.path(portsFile)); !exists(l.path(damagedFolder, portsFile)) || !last.flagsKept() || len(last.last) > 1 {
			t.Errorf("%s: the damaged file stays", kind)
		}
		for _, name := range []string{"operator", "manager"} {
			_, err := p.ownPair(name, time.Now())
			if refused := problem.From(err); err == nil || refused.Rule != problem.RuleStateDamaged || !strings.Contains(refused.Actual, l.path(name+".key")) {
				t.Errorf("%s: another key of the %s's was made: %v", kind, name, err)
			}
		}
		if err := p.whole(); err == nil {
			t.Errorf("%s: a manager's database that is gone is not missed", kind)
		}
	}
}

// TestForcedDownKeepsThatItServed: where the manager's database was given up, only that is
// made anew, and once.
func TestForcedDownKeepsThatItServed(t *testing.T) {
	l, err := newLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := newParts(l, slog.New(slog.DiscardHandler))
	if err := errors.Join((&ports{l.path(portsFile), map[string]string{}}).save(), l.forget(t.Context(), p.log)); err != nil {
		t.Fatal(err)
	}
	if l.managerLost(t.Context()) {
		t.Error("the database is missed still")
	}
	if err := p.whole(); err != nil {
		t.Error(err)
	}
	if _, err := p.ownPair("operator", time.Now()); err == nil {
		t.Error("another operator's key was made")
	}
	if err := errors.Join(p.remember(), p.remember()); err != nil {
		t.Error(err)
	}
	if !l.managerLost(t.Context()) {
		t.Error("the next database isn't missed when it is gone")
	}
	if err := os.Remove(l.path(portsFile)); err != nil || l.served() {
		t.Errorf("an installation that never served: %v", err)
	}
}
