package cas

import (
	"sync/atomic"
	"time"
)

// defaultReports is how many keep-alives a second a CAS takes. Each is a TLS
// connection of its own, so that none is held in between, and costs about a
// millisecond of a processor.
const defaultReports = 400

// maxPeriod is the longest time between reports, however many instances there are.
const maxPeriod = 5 * time.Minute

// pace is how often an instance reports: told with its release, and anew with
// every keep-alive, since it grows with the number of instances.
type pace struct {
	told   atomic.Int64 // the period that was told last, in nanoseconds
	before atomic.Int64 // and the one before: the last answer may have been lost
}

// tell returns the period in seconds, as it travels, and remembers it.
func (p *pace) tell(period time.Duration) int {
	p.before.Store(p.told.Swap(int64(period)))
	return max(1, int(period/time.Second))
}

// patience is how long an instance may be silent before it lapses: three times
// the period that it goes by.
func (p *pace) patience(least time.Duration) time.Duration {
	return missedReports * max(least, time.Duration(p.told.Load()), time.Duration(p.before.Load()))
}

// period is how often instances report at the moment: as configured, and more
// rarely where there are more of them than reports can be taken.
func (c *CAS) period() time.Duration {
	byLoad := time.Duration(c.living.Load()) * time.Second / time.Duration(c.reports)
	if byLoad <= c.keepAlive {
		return c.keepAlive
	}
	whole := (byLoad + time.Second - 1) / time.Second * time.Second
	return max(c.keepAlive, min(whole, maxPeriod))
}

// patience is how long in may be silent.
func (c *CAS) patience(in *instance) time.Duration { return in.pace.patience(c.keepAlive) }

// setLive says whether in has rights, and counts those that have.
func (c *CAS) setLive(in *instance, live bool) {
	if in.live.Swap(live) == live {
		return
	}
	if live {
		c.living.Add(1)
	} else {
		c.living.Add(-1)
	}
}
