package manager

import "time"

// Limits are the manager's times and counts.
type Limits struct {
	Deadline    time.Duration // of one deployment
	Health      time.Duration // from the last attestation to the last healthy instance
	MaxFailures int           // in a row, of one instance, before a deployment gives up
	BackoffMin  time.Duration
	BackoffMax  time.Duration
	Settled     time.Duration // running for so long forgives earlier failures
	Grace       time.Duration // from SIGTERM to SIGKILL
	Drain       time.Duration // from when nobody is led to an instance any more to SIGTERM, at most
	Starts      int           // instances that start at once; 0: any number
}

// DefaultLimits are what cupeld uses.
func DefaultLimits() Limits {
	return Limits{
		Deadline:    15 * time.Minute,
		Health:      2 * time.Minute,
		MaxFailures: 3,
		BackoffMin:  time.Second,
		BackoffMax:  time.Minute,
		Settled:     time.Minute,
		Grace:       10 * time.Second,
		Drain:       30 * time.Second,
	}
}

// backoff is how long lies between a failure and the next try, after so many in a row.
func backoff(l Limits, failures int) time.Duration {
	d := l.BackoffMin
	for range failures - 1 {
		if d *= 2; d >= l.BackoffMax {
			return l.BackoffMax
		}
	}
	return d
}
