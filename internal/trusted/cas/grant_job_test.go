package cas_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
)

// TestJobComesBack: a job whose first volume is committed, and that lapsed before
// the second was, gets its rights back: its own run is not another's.
func TestJobComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = w.Run(ctx) }()
		defer func() { stop(); w.Close(); synctest.Wait() }()
		w.put(replaceCode(`version: "0.3"
name: s
services: [{name: j, image_name: job, mrenclaves: [CODE], command: j}]
volumes: [{name: v}, {name: u}]
images:
  - name: job
    volumes:
      - {name: v, path: /v, update_policy: rollback_protected}
      - {name: u, path: /u, update_policy: rollback_protected}
`))
		token := w.claim(provider, w.submit(w.owner, "s", services{"j": {Runs: 1}}).Code).Token
		volumes := w.mustAskUnder(token, 1, "s", "j").Volumes
		if err := w.tag(1, volumes[0], 0, ident.Digest{}, ident.Digest{1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * keepAlive)
		rule(t, w.beat(1), "instance_lapsed")

		w.mustAskUnder(token, 1, "s", "j")
		if err := w.tag(1, volumes[1], 0, ident.Digest{}, ident.Digest{2}); err != nil {
			t.Error(err)
		}
		if err := w.exit(1); err != nil {
			t.Fatal(err)
		}
		_, err := w.askUnder(token, 3, "s", "j")
		rule(t, err, "grant_used")
	})
}
