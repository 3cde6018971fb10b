package backendtest

import (
	"fmt"
	"sync/atomic"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
)

func TestFake(t *testing.T) {
	var n atomic.Int64
	Run(t, func(*testing.T) Subject {
		return Subject{Backend: NewFake(), Spec: func(*testing.T) manager.InstanceSpec {
			return manager.InstanceSpec{
				ID: ident.AttemptID(fmt.Sprintf("i-%d", n.Add(1))), App: "app-1", Image: "runtime", Memory: 64 << 20, Port: 8080,
				Labels: map[string]string{"role": "app"},
			}
		}}
	})
}
