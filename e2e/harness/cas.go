//go:build e2e

package harness

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/owners"
)

// CASInstances asks the CAS, with the party's key, for everything that it
// released to instances of a session: what an attack must not add to.
func (p *Party) CASInstances(session string) []owners.Instance {
	p.world.T.Helper()
	dir := filepath.Join(p.Dir, "cupel")

	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "identity.crt"), filepath.Join(dir, "identity.key"))
	p.world.must(err)
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		// The test asks the CAS of its own world, over loopback.
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}, //nolint:gosec // see above
	}}

	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet,
		"https://"+p.world.Info().CAS.Owners+"/v1/sessions/"+session+"/instances", nil)
	p.world.must(err)

	resp, err := client.Do(req)
	p.world.must(err)
	defer func() { _ = resp.Body.Close() }()

	body, err := io.ReadAll(resp.Body)
	p.world.must(err)

	var list owners.Instances
	if resp.StatusCode != http.StatusOK {
		p.world.T.Fatalf("instances of %s: status %d: %s", session, resp.StatusCode, body)
	}

	p.world.must(json.Unmarshal(body, &list))
	return list.Instances
}

// MustNotDeploy deploys a session, fails the test unless that ends with a
// problem of one of the rules ("a|b") which says what happened and how to mend
// it, and unless the app's events name the rule too.
func (p *Party) MustNotDeploy(rules, session string, flags ...string) Problem {
	p.world.T.Helper()
	args := append([]string{"deploy", session, "--memory", "256M", "-o", "json"}, flags...)

	r := p.Run(args...)

	var refusal Problem
	for line := range strings.Lines(r.Stderr) { // warnings come before it, as objects too
		var p Problem
		if json.Unmarshal([]byte(line), &p) == nil && p.Rule != "" {
			refusal = p
		}
	}

	if r.Code <= 0 || refusal.Rule == "" {
		p.world.T.Fatalf("want a refusal by rule %q: %s", rules, r)
	}

	if !slices.Contains(strings.Split(rules, "|"), refusal.Rule) || refusal.Actual == "" || refusal.Mend == "" {
		p.world.T.Errorf("want a refusal by rule %q, with what happened and how to mend it: %+v", rules, refusal)
	}

	if events := p.MustRun("events", session); !strings.Contains(events, refusal.Rule+": ") {
		p.world.T.Errorf("the events don't name the rule %q:\n%s", refusal.Rule, events)
	}

	return refusal
}
