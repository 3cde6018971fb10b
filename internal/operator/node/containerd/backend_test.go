package containerd_test

import (
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// TestBackend runs the manager's contract against real containers.
func TestBackend(t *testing.T) {
	needMachine(t)
	backendtest.Run(t, func(t *testing.T) backendtest.Subject {
		l := newMachine(t).live()
		n := 0
		return backendtest.Subject{
			Backend: l.node,
			Spec: func(*testing.T) manager.InstanceSpec {
				n++
				s := l.spec(ident.AttemptID("i-"+string(rune('a'+n))), "serve")
				s.Port = 80
				return s
			},
			Reopen: func(*testing.T) manager.Backend {
				l.kill()
				l = l.live()
				return l.node
			},
		}
	})
}
