//go:build e2e

// Package deploy measures a deployment of three instances with cached images,
// step by step, beside what the earlier system took for the same road.
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

const (
	rounds = 7
	// earlier is the published median of the earlier deployment system, in
	// seconds: the whole road on minikube, ten runs.
	earlier = 179.0
)

// TestDeploy prints; it asserts no times. Run it by `make bench`.
func TestDeploy(t *testing.T) {
	w := harness.New(t, harness.Config{})
	owner := w.Owner("owner")
	w.Git.Push("app", harness.ExampleApp(w))
	w.BuildRuntimes("puller", "python")
	owner.Vouch("puller", "python")
	owner.AttestCAS()
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
		owner.MustRun("rm", "--app", session)
	}
	fmt.Printf("deploy of 3 instances, cached images, %d rounds: median (least to most), seconds\n", rounds)
	for _, step := range order {
		s := times[step]
		slices.Sort(s)
		fmt.Printf("  %-24s %6.2f  (%.2f to %.2f)\n", step, s[len(s)/2], s[0], s[len(s)-1])
	}
	whole := times["deploy, whole command"]
	fmt.Printf("  the earlier system's median for its whole road: %.0f s; ratio %.3f\n", earlier, whole[len(whole)/2]/earlier)
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
