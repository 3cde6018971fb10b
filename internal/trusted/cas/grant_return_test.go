package cas_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/ident"
)

// TestReturnGivesNoLeaseThatAnUpdateTook: a host that holds a launcher until it
// lapses gets it no right to write back that its session's owner had ended.
func TestReturnGivesNoLeaseThatAnUpdateTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = w.Run(ctx) }()
		defer func() { stop(); w.Close(); synctest.Wait() }()
		w.put(twoWriters("s"))
		v := w.mustAsk(1, "s", "a").Volumes[0]
		reads := strings.Replace(twoWriters("s"), "{name: a, image_name: writer", "{name: a, image_name: reader", 1)
		if err := w.update(w.owner, "s", reads); err != nil {
			t.Fatal(err)
		}
		rule(t, w.tag(1, v, 0, ident.Digest{}, ident.Digest{1}), "lease_ended")

		time.Sleep(4 * keepAlive)
		rule(t, w.beat(1), "instance_lapsed")
		w.mustAsk(1, "s", "a")
		if state := w.states("s")[1]; state != api.Running {
			t.Errorf("the instance is %s", state)
		}
		rule(t, w.tag(1, v, 0, ident.Digest{}, ident.Digest{1}), "lease_ended")
		w.mustAsk(2, "s", "b") // who may write can
	})
}
