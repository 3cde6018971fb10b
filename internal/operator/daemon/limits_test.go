package daemon

import (
	"testing"
	"time"

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
