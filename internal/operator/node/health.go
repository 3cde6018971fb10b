package node

import (
	"context"
	"net"
	"strconv"
	"time"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/wire"
)

// watchHealth connects to the instance's port: often until it first answers,
// then every other second. An instance that never answered is unknown for its
// first seconds, so that a slow start is not taken for an illness. The port of
// an adopted one is tried even if no report said that its app runs: it may have
// come while nobody listened, and only the app accepts connections there.
func (n *Node) watchHealth(ctx context.Context, i *instance, adopted bool) {
	var watch suspendedWatch
	for {
		n.mu.Lock()
		started := i.rec.StartedAt
		id := i.rec.Spec.ID
		n.mu.Unlock()

		wait := 50 * time.Millisecond
		if !started.IsZero() || adopted {
			ok := n.answers(ctx, i)
			if ctx.Err() != nil {
				return
			}

			suspended := watch.after(ok, func() bool { return n.suspended(id) })
			inferred, next := n.healthSeen(i, ok, suspended)
			if !ok {
				n.lookAround(ctx, i)
			}
			if inferred {
				n.persist(ctx, i)
			}
			wait = next
		}

		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// answers reports whether the instance's port accepts connections.
func (n *Node) answers(ctx context.Context, i *instance) bool {
	n.mu.Lock()
	addr := net.JoinHostPort(i.rec.IP.String(), strconv.Itoa(int(i.rec.Spec.Port)))
	n.mu.Unlock()

	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// healthSeen takes one check's result: whether the port accepted the connection, and
// whether the app that accepted it is suspended. It returns whether the check proved that
// the app runs, which no report had said, and when to check again.
func (n *Node) healthSeen(i *instance, ok, suspended bool) (inferred bool, next time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()

	inferred = ok && i.rec.StartedAt.IsZero() && i.rec.Exit == nil
	if inferred {
		i.report(wire.Status{Version: wire.StatusVersion, Phase: wire.Running}, n.cfg.Now())
	}

	if i.rec.StartedAt.IsZero() || i.rec.Exit != nil {
		return false, i.judge.wait()
	}

	since := n.cfg.Now().Sub(i.rec.StartedAt)
	if since < 0 { // the clock was set back, and this process didn't see the start
		i.rec.StartedAt = n.cfg.Now()
		since = 0
	}

	if verdict := i.judge.judge(ok && !suspended, since); i.health != verdict || i.suspended != suspended || inferred {
		i.health = verdict
		i.suspended = suspended
		n.publishStatus(i)
	}
	return inferred, i.judge.wait()
}

const (
	healthGrace    = 10 * time.Second
	healthFailures = 3 // in a row, of an instance that was healthy
)

// healthJudge turns single checks into a verdict.
type healthJudge struct {
	ever   bool // a check went well
	failed int  // how many checks in a row went badly
}

func (h *healthJudge) judge(ok bool, sinceStart time.Duration) manager.Health {
	if ok {
		h.ever = true
		h.failed = 0
		return manager.HealthHealthy
	}
	h.failed++

	switch {
	case h.ever && h.failed < healthFailures:
		return manager.HealthHealthy
	case !h.ever && sinceStart < healthGrace:
		return manager.HealthUnknown
	}
	return manager.HealthUnhealthy
}

// wait is how long to wait before the next check.
func (h *healthJudge) wait() time.Duration {
	switch {
	case !h.ever:
		return 100 * time.Millisecond
	case h.failed > 0:
		return 300 * time.Millisecond
	}
	return 2 * time.Second
}
