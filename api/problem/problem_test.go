package problem

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestFrom(t *testing.T) {
	denied := New(Denied, "measurement", "another one")
	plain := errors.New("plain")
	for _, c := range []struct {
		name string
		err  error
		kind Kind
		rule Rule
	}{
		{"itself", denied, Denied, "measurement"},
		{"wrapped", fmt.Errorf("release: %w", denied), Denied, "measurement"},
		{"joined", errors.Join(plain, denied), Denied, "measurement"},
		{"another error", plain, Internal, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if p := From(c.err); p.Kind != c.kind || p.Rule != c.rule || KindOf(c.err) != c.kind {
				t.Errorf("got %+v, kind %q", p, KindOf(c.err))
			}
		})
	}
	if !errors.Is(From(plain), plain) {
		t.Error("the cause is lost")
	}
	if p := From(nil); p != nil || KindOf(nil) != "" {
		t.Errorf("no error became %v of kind %q", p, KindOf(nil))
	}
}

func TestDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0 ms": 0, "500 ms": 500 * time.Millisecond, "0.05 ms": 50 * time.Microsecond, "1 second": time.Second, "1.5 seconds": 1500 * time.Millisecond,
		"10 seconds": 10 * time.Second, "1 minute": time.Minute, "3 minutes": 3 * time.Minute, "1 minute 30 seconds": 90*time.Second + 3*time.Millisecond,
		"1 hour 30 minutes": 90 * time.Minute, "1 day": 24 * time.Hour, "30 days": 720 * time.Hour, "-2 seconds": -2 * time.Second,
	} {
		if got := Duration(d); got != want {
			t.Errorf("%d ns: %q, want %q", d, got, want)
		}
	}
}

// TestOfPull: also a rule that only a newer manager has.
func TestOfPull(t *testing.T) {
	for rule, want := range map[Rule]bool{
		RulePull: true, RulePullToken: true, "pull_newer": true, RuleExited: false, "": false,
	} {
		if OfPull(rule) != want {
			t.Errorf("%q: %t", rule, !want)
		}
	}
}
