package node

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowStart: a start that is held is told of long before it is given up, and once
// more when it works.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, r := testNode(t)
		r.hangs = true
		done := make(chan error)
		go func() { done <- n.cfg.Runtime.Start(t.Context(), Container{ID: "i-1-1"}) }()
		time.Sleep(30 * time.Second)
		n.mu.Lock()
		told := slices.Clone(n.told)
		n.mu.Unlock()
		want := "trouble i-1-1: start the container: start_slow: runc create has run for 10 seconds, which takes less than a second as a rule; " +
			"it is waited for, 2 minutes in all, and then tried again. See what holds it: ps -ef | grep runc (kill -CONT a runc that was stopped), the disk, the machine's load"
		if !slices.Equal(told, []string{want}) {
			t.Errorf("told:\n%q\nwant:\n%q", told, want)
		}
		if err := <-done; err == nil {
			t.Error("a start that hangs ended well")
		}

		r.hangs = false
		if err := n.cfg.Runtime.Start(t.Context(), Container{ID: "i-2-1"}); err != nil {
			t.Error(err)
		}
		if n.told = n.told[len(told):]; slices.ContainsFunc(n.told, func(line string) bool { return line == want }) {
			t.Errorf("told of a quick one: %q", n.told)
		}
	})
}
