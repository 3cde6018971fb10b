package node

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/volume"
)

// deafRuntime drops signals, as the kernel does for a first process without a
// handler, until the instance was asked so often.
type deafRuntime struct {
	Runtime
	asked  int
	listen func(asked int)
}

func (r *deafRuntime) Kill(_ context.Context, _ string, signal syscall.Signal) error {
	if signal != syscall.SIGTERM {
		return errors.New("not SIGTERM")
	}
	r.asked++
	r.listen(r.asked)
	return nil
}

func (r *deafRuntime) List(context.Context) ([]ContainerState, error) { return nil, nil }

func TestDeafLauncherIsAskedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		listen func(i *instance, asked int)
		asked  int
		ended  bool
	}{
		"ends at once":  {func(i *instance, _ int) { close(i.exited) }, 1, true},
		"listens later": {func(i *instance, asked int) { i.rec.Report.Phase = phaseAfter(asked, 3) }, 3, false},
		"never listens": {func(*instance, int) {}, 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newInstance(&record{Spec: manager.InstanceSpec{ID: "i-1"}})
				r := &deafRuntime{listen: func(asked int) { c.listen(i, asked) }}
				n := &Node{cfg: Config{Runtime: r}, instances: map[string]*instance{"i-1": i}}
				ended, err := n.terminateEarly(t.Context(), i, time.Second)
				if err != nil || ended != c.ended || r.asked != c.asked {
					t.Errorf("ended %v (want %v), asked %d times (want %d), %v", ended, c.ended, r.asked, c.asked, err)
				}
			})
		})
	}
}

func phaseAfter(asked, n int) volume.Phase {
	if asked < n {
		return ""
	}
	return volume.Starting
}
