//go:build e2e

// Package deploy measures the road to three instances, step by step: what an operator
// does once, what an owner does for each app, and the removal. Beside it stands what
// the earlier system's own evaluation says of its steps.
package deploy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/e2e/harness"
)

const rounds = 7

// earlier are the published medians of the earlier deployment system, in seconds, of ten
// runs on another machine. Its whole road (179) begins with starting minikube; images
// were there.
var earlier = []struct {
	step    string
	seconds float64
}{{"minikube start", 101}, {"repository", 41}, {"Kubernetes", 18.6}, {"environment", 3.5}, {"session", 2}}

// TestDeploy prints; it asserts no times. Run it by `make bench`.
func TestDeploy(t *testing.T) {
	w := harness.New(t, harness.Config{NoUp: true})
	owner := w.Owner("owner")
	w.Git.Push("app", harness.ExampleApp(w))
	up := timed(func() { w.Up(nil, nil) })
	build := timed(func() { w.BuildRuntimes("puller", "python") })
	vouch := timed(func() { owner.Vouch("puller", "python") })
	attest := timed(func() { owner.AttestCAS() })
	times := map[string][]float64{}
	var order []string
	add := func(step string, seconds float64) {
		if _, ok := times[step]; !ok {
			order = append(order, step)
		}
		times[step] = append(times[step], seconds)
	}
	for round := range rounds + 1 { // the first warms the caches and is not counted
		session := fmt.Sprintf("bench-%d", round)
		template := time.Now()
		owner.CreateSession(session, "app")
		created := time.Since(template).Seconds()
		began := time.Now()
		out := owner.Deploy(session, 3, harness.FreePort(t), "-o", "json")
		total := time.Since(began).Seconds()
		if round > 0 {
			add("template and session", created)
			for _, s := range steps(t, out) {
				add(s.Step, s.Seconds)
			}
			add("deploy, whole command", total)
		}
		removal := timed(func() { owner.MustRun("rm", "--app", session) })
		if round > 0 {
			add("rm of the app", removal)
		}
	}
	fmt.Printf("deploy of 3 instances, cached images, %d rounds: median (least to most), seconds\n", rounds)
	for _, step := range order {
		s := times[step]
		slices.Sort(s)
		fmt.Printf("  %-24s %6.2f  (%.2f to %.2f)\n", step, s[len(s)/2], s[0], s[len(s)-1])
	}
	middle := func(step string) float64 { return times[step][len(times[step])/2] }
	each := middle("template and session") + middle("deploy, whole command")
	once := up + attest
	fmt.Printf("once, before the first deploy: cupel up %.2f, cas attest %.2f; with packages and measurements cached: runtime build %.2f, runtime measure %.2f\n",
		up, attest, build, vouch)
	fmt.Printf("ours, images there (up, attest, session, deploy): %.2f s; of that for each further app (session, deploy): %.2f s\n", once+each, each)

	whole, further := 0.0, 0.0
	fmt.Printf("the earlier system's published medians, another machine:")
	for n, e := range earlier {
		fmt.Printf(" %s %.1f", e.step, e.seconds)
		whole += e.seconds
		if n > 0 {
			further += e.seconds
		}
	}
	fmt.Printf("\nratio to it, not of one run: %.3f of its steps' sum with the start of the machine's parts, %.3f without\n", (once+each)/whole, each/further)
}

func timed(f func()) float64 {
	began := time.Now()
	f()
	return time.Since(began).Seconds()
}

type step struct {
	Step    string  `json:"step"`
	Seconds float64 `json:"seconds"`
	State   string  `json:"state"`
}

func steps(t *testing.T, out string) []step {
	t.Helper()
	var done []step
	for line := range strings.Lines(out) {
		var s step
		if err := json.Unmarshal([]byte(line), &s); err == nil && s.State == "done" {
			done = append(done, s)
		}
	}
	if len(done) == 0 {
		t.Fatalf("no steps in:\n%s", out)
	}
	return done
}
