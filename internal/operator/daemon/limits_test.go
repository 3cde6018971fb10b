package daemon

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/trusted/problem"
)

func TestDrainFlag(t *testing.T) {
	for drain, ok := range map[time.Duration]bool{0: true, 30 * time.Second: true, -time.Second: false, 25 * time.Hour: false} {
		limits, err := managerLimits(Options{Drain: drain})
		if ok && (err != nil || limits.Drain != drain) {
			t.Errorf("%s: %s, %v", drain, limits.Drain, err)
		}
		if !ok && problem.From(err).Rule != "drain" {
			t.Errorf("%s: %v", drain, err)
		}
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for _, tt := range []struct {
		o    Options
		rule string
	}{
		{Options{}, ""},
		{Options{Grace: time.Minute, Balancer: "connections=10,clients=100", Subnet: "10.1.2.0/24"}, ""},
		{Options{Grace: -time.Second}, "grace"},
		{Options{Grace: time.Hour}, "grace"},
		{Options{Drain: -time.Second}, "drain"},
		{Options{Balancer: "connections=many"}, "balancer_limit"},
		{Options{Subnet: "8.8.8.0/24"}, "subnet"},
	} {
		err := checkOptions(tt.o)
		if p := problem.From(err); tt.rule == "" && err != nil || tt.rule != "" && (err == nil || p.Rule != tt.rule) {
			t.Errorf("%+v: %v, want %q", tt.o, err, tt.rule)
		}
	}
	limits, err := managerLimits(Options{Grace: time.Minute})
	if err != nil || limits.Grace != time.Minute {
		t.Errorf("%+v, %v", limits, err)
	}
	if limits, err = managerLimits(Options{}); err != nil || limits.Grace != manager.DefaultLimits().Grace {
		t.Errorf("%+v, %v", limits, err)
	}
}

// TestGraceOfADeadCupeld: who stops the apps of a cupeld that died gives them the time
// that it was started with.
func TestGraceOfADeadCupeld(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.keptLimits().Grace; got != manager.DefaultLimits().Grace {
		t.Errorf("of an earlier release: %s", got)
	}
	for _, grace := range []time.Duration{5 * time.Minute, 0} {
		o.Grace = grace
		_, end := begin(t, o)
		if err := end(nil); err != nil { // containerd is left, as by kill -9
			t.Fatal(err)
		}
		want, err := managerLimits(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.keptLimits().Grace; got != want.Grace {
			t.Errorf("up --grace %s, and then apps have %s", grace, got)
		}
	}

	for _, damaged := range []string{"", "\x00\x00", "-1s", "20m"} {
		if err := os.WriteFile(l.path("grace"), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := l.keptLimits().Grace; got != maxGrace {
			t.Errorf("a file with %q: %s, want the longest", damaged, got)
		}
	}
}

// TestTimeoutsAgree: nobody gives up waiting for what may still go on.
func TestTimeoutsAgree(t *testing.T) {
	longest := maxGrace + node.CommitLimit
	if stopTimeout <= longest || downTimeout <= stopTimeout || unitTimeout <= downTimeout {
		t.Errorf("apps may take %s to end; they are given %s, cupeld %s, cupel down %s", longest, stopTimeout, downTimeout, unitTimeout)
	}
	if unit := string((layout{dir: "/a", id: "1"}).unitText("/b", nil)); !strings.Contains(unit, fmt.Sprintf("TimeoutStopSec=%d\n", int(unitTimeout.Seconds()))) {
		t.Errorf("unit:\n%s", unit)
	}
}
