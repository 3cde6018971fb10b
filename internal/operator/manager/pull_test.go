package manager_test

import (
	"fmt"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// TestPullEnds: each end of the puller's has a rule of its own, and what another
// try can't mend is tried once.
func TestPullEnds(t *testing.T) {
	for code, want := range map[int]struct {
		rule  string
		kind  problem.Kind
		tries int
	}{
		64: {"pull_input", problem.Invalid, 1},
		65: {"pull_token", problem.Unauthenticated, 1},
		66: {"pull_repository", problem.NotFound, 1},
		67: {"pull_certificate", problem.Denied, 1},
		68: {"pull_unreachable", problem.Unavailable, 3},
		69: {"pull_redirect", problem.Invalid, 1},
		70: {"pull_command", problem.NotFound, 1},
		71: {"pull_space", problem.Invalid, 1},
		72: {"pull_failed", problem.Invalid, 1},
		73: {"pull_content", problem.Invalid, 1},
		74: {"pull_proxy", problem.Invalid, 1},
		75: {"pull_stopped", problem.Unavailable, 3},
		76: {"pull_ref", problem.NotFound, 1},
		77: {"pull_branch", problem.NotFound, 1},
		78: {"pull_certificate", problem.Denied, 1},
		79: {"pull_silent", problem.Unavailable, 1},
		80: {"pull_busy", problem.Unavailable, 1},
		81: {"pull_tls", problem.Invalid, 1},
		82: {"pull_broken", problem.Unavailable, 3},
		13: {"pull", problem.Internal, 3},
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				tries := 0
				w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
					if s.Port == 0 {
						tries++
					}
					return backendtest.Script{Exit: true, Code: code}
				})
				p := w.settled(w.deploy(request()).ID).Deployment.Problem
				if p == nil || string(p.Rule) != want.rule || p.Kind != want.kind || p.Mend == "" || tries != want.tries {
					t.Errorf("%d tries: %+v, want %d of %s (%s)", tries, p, want.tries, want.rule, want.kind)
				}
			})
		})
	}
}

// TestPullTellsWhoToAsk: where a git server doesn't answer, the deployment's end says
// that this machine is known to have something in the way; no other end does, nor where
// nothing is.
func TestPullTellsWhoToAsk(t *testing.T) {
	for _, c := range []struct {
		code        int
		found, told bool
	}{{68, true, true}, {79, true, true}, {65, true, false}, {74, true, false}, {82, true, false}, {68, false, false}, {79, false, false}} {
		t.Run(fmt.Sprint(c.code, c.found), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, func(manager.InstanceSpec) backendtest.Script { return backendtest.Script{Exit: true, Code: c.code} })
				w.stop()
				w.inTheWay = func() bool { return c.found }
				w.start()
				p := w.settled(w.deploy(request()).ID).Deployment.Problem
				if p == nil || strings.Contains(p.Actual, "to have something in the way") != c.told || strings.HasPrefix(p.Mend, "ask the operator") != c.told {
					t.Errorf("%+v, want it told: %v", p, c.told)
				}
			})
		})
	}
}
