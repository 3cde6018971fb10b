package daemon

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
)

// TestManagerLost follows what a start says of a manager's database that is gone or
// damaged, word by word, from a cupeld that was killed to one that serves.
func TestManagerLost(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	db, record := l.path("manager.db"), l.path("node", "instances", "i-1-1.json")
	up := func() error {
		return Up(t.Context(), o, slog.New(slog.DiscardHandler), func(Serving) error { return errors.New("it serves") })
	}
	for _, kind := range []string{"garbage", "gone", "empty", "a folder"} {
		_, end := begin(t, o)
		if err := end(nil); err != nil { // containerd is left, as by kill -9
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(record, []byte(`{"version":1,"spec":{"ID":"i-1-1"},"made":true}`), 0o600), os.Remove(db)); err != nil {
			t.Fatal(err)
		}
		if kind != "gone" {
			if err := damages[kind](db); err != nil {
				t.Fatal(err)
			}
		}

		// A folder in its place is moved away first, which makes it one that is gone.
		for range 2 {
			p := problem.From(up())
			if p.Rule != problem.RuleStateDamaged && p.Rule != "state_access" {
				t.Fatalf("%s: up: %v", kind, p)
			}
			if strings.Contains(p.Mend, "cupel down --force") {
				forced := o
				forced.Force = true
				if err := stopAll(t.Context(), forced, slog.New(slog.DiscardHandler)); err != nil {
					t.Fatalf("%s: down --force: %v", kind, err)
				}
			}
			if !strings.Contains(p.Mend, "away") {
				t.Fatalf("%s: the mend moves nothing away: %s", kind, p.Mend)
			}
			if err := os.RemoveAll(db); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(p.Mend, "cupel up") {
				break
			}
		}
		if !exists(l.path("damaged", "instances", "i-1-1.json")) || exists(record) {
			t.Errorf("%s: the record was not put aside", kind)
		}
		if err := os.RemoveAll(l.path("damaged")); err != nil {
			t.Fatal(err)
		}
	}
	_, end := begin(t, o)
	if err := end(errStop); err != nil {
		t.Fatal(err)
	}
}

// TestForcedDownForgetsNothing that its manager knows.
func TestForcedDownForgetsNothing(t *testing.T) {
	o := upOptions(t)
	l := served(t, o)
	record := l.path("node", "instances", "i-1-1.json")
	if err := os.WriteFile(record, []byte(`{"version":1,"spec":{"ID":"i-1-1"},"made":true,"exit":{"code":1}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Force = true
	if err := stopAll(t.Context(), o, slog.New(slog.DiscardHandler)); err != nil || exists(l.path("damaged", "instances")) {
		t.Errorf("%v; put aside: %v", err, exists(l.path("damaged", "instances")))
	}
}
