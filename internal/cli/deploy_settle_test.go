package cli

import (
	"bytes"
	"context"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/client"
)

// TestInterruptedWhileTheCASIsAway: who stops waiting for a deployment that goes on is not
// told to take its rights, and doesn't wait for a CAS that is away.
func TestInterruptedWhileTheCASIsAway(t *testing.T) {
	var errs bytes.Buffer
	g := &globals{out: &bytes.Buffer{}, err: &errs, output: "table", now: time.Now, wait: 100 * time.Hour, env: func(string) string { return "" }}
	c, err := client.NewCAS("127.0.0.1:1", client.CASOptions{
		Patience: g.wait, Pin: &client.Pin{Identity: ident.KeyHash{1}},
		Waiting: func(why error) { g.warnf("waiting: %v", why) },
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &deployment{g: g, cas: c, session: "shop", made: &owners.Grant{Session: "shop", App: "shop"}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.settleGrants(ctx, ending{}, true); err != nil || d.withdrawn {
		t.Errorf("%v, withdrawn: %v", err, d.withdrawn)
	}
	if errs.Len() > 0 {
		t.Errorf("the deployment goes on, and:\n%s", &errs)
	}
}
