package manager_test

import (
	"fmt"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/backendtest"
	"cupel.dev/cupel/internal/trusted/problem"
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
				if p == nil || p.Rule != want.rule || p.Kind != want.kind || p.Mend == "" || tries != want.tries {
					t.Errorf("%d tries: %+v, want %d of %s (%s)", tries, p, want.tries, want.rule, want.kind)
				}
			})
		})
	}
}

// TestPullTellsWhatIsInTheWay: where a git server doesn't answer, the deployment's end
// names what this machine is known to have in the way; no other end does.
func TestPullTellsWhatIsInTheWay(t *testing.T) {
	const found = "it doesn't reach each other port of this machine: policy drop of the nftables chain inet f in"
	for code, told := range map[int]bool{68: true, 79: true, 65: false, 74: false} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, func(manager.InstanceSpec) backendtest.Script { return backendtest.Script{Exit: true, Code: code} })
				w.stop()
				w.inTheWay = func() string { return found }
				w.start()
				p := w.settled(w.deploy(request()).ID).Deployment.Problem
				if p == nil || strings.Contains(p.Actual, found) != told {
					t.Errorf("%+v, want it told: %v", p, told)
				}
			})
		})
	}
}
