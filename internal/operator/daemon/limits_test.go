package daemon

import (
	"testing"
	"time"

	"cupel.dev/cupel/internal/operator/manager"
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
