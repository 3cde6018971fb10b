//go:build e2e

// Package mainroad holds the first promise: from a private git repository to
// attested, load-balanced instances, with nothing but commands.
package mainroad

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/e2e/harness"
)

const session = "shop"

func TestMainRoad(t *testing.T) {
	w := harness.New(t, harness.Config{})
	owner := w.Owner("owner")
	port := harness.FreePort(t)
	w.Git.Push("app", harness.ExampleApp(w))
	w.BuildRuntimes("puller", "python")
	owner.Vouch("puller", "python")
	owner.AttestCAS()
	owner.CreateSession(session, "app")
	t.Log(owner.Deploy(session, 3, port))
	client := owner.AppClient(session)
	local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)

	t.Run("three attested instances", func(t *testing.T) {
		if err := owner.ExpectHealthy(session, 3); err != nil {
			t.Error(err)
		}
		for _, i := range owner.Instances(session) {
			if i.Role == "app" && (i.InstanceID.IsZero() || !i.Simulated) {
				t.Errorf("instance %s: attested as %s, simulated %v", i.ID, i.InstanceID, i.Simulated)
			}
		}
		out := owner.MustRun("verify", session)
		if !strings.Contains(strings.ToLower(out), "simulat") {
			t.Errorf("verify doesn't say that the platform is simulated:\n%s", out)
		}
	})

	t.Run("answers with the session's certificate", func(t *testing.T) {
		for _, at := range []netip.AddrPort{local, netip.AddrPortFrom(netip.IPv6Loopback(), port)} {
			if a, err := client.Get(netip.Addr{}, at); err != nil || a.Message != "Hello from inside" {
				t.Errorf("%s: %+v, %v", at, a, err)
			}
		}
		stranger := w.Owner("stranger")
		if r := stranger.Run("verify", session); r.Code == 0 {
			t.Errorf("a stranger may verify: %s", r)
		}
	})

	// Every address of 127/8 is a client of its own.
	t.Run("clients are spread and stay", func(t *testing.T) {
		first := map[netip.Addr]string{}
		count := map[string]int{}
		for i := range 12 {
			from := netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)})
			a, err := client.Get(from, local)
			if err != nil {
				t.Fatal(err)
			}
			first[from] = a.Instance
			count[a.Instance]++
		}
		if len(count) != 3 {
			t.Errorf("12 clients were spread as %v, want over three instances", count)
		}
		for from, instance := range first {
			if a, err := client.Get(from, local); err != nil || a.Instance != instance {
				t.Errorf("%s moved from %s to %s (%v)", from, instance, a.Instance, err)
			}
		}
	})

	t.Run("logs", func(t *testing.T) {
		if out := owner.MustRun("logs", session); !strings.Contains(out, "serving on port 8080") {
			t.Errorf("logs have nothing of the app:\n%s", out)
		}
		id := owner.Healthy(session)[0]
		if out := owner.MustRun("logs", id); strings.Count(out, "serving on port 8080") != 1 {
			t.Errorf("logs of %s:\n%s", id, out)
		}
	})

	t.Run("update", func(t *testing.T) {
		before := owner.Healthy(session)
		files := harness.ExampleApp(w)
		files["client-app.py"] = strings.ReplaceAll(files["client-app.py"], "Hello from inside", "Second edition")
		w.Git.Push("app", files)
		stop, failures := watch(client, local)
		owner.Deploy(session, 3, port)
		close(stop)
		if lost := <-failures; len(lost) > 0 {
			t.Errorf("during the update: %v", lost)
		}
		if a, err := client.Get(netip.Addr{}, local); err != nil || a.Message != "Second edition" {
			t.Errorf("after the update: %+v, %v", a, err)
		}
		for _, id := range owner.Healthy(session) {
			if slices.Contains(before, id) {
				t.Errorf("instance %s is from before the update", id)
			}
		}
	})

	t.Run("remove an instance", func(t *testing.T) {
		owner.MustRun("rm", owner.Healthy(session)[0])
		w.Eventually(30*time.Second, func() error { return owner.ExpectHealthy(session, 2) })
		if _, err := client.Get(netip.Addr{}, local); err != nil {
			t.Error(err)
		}
	})

	t.Run("audit", func(t *testing.T) {
		owner.MustRun("audit", "verify")
	})

	t.Run("remove the app", func(t *testing.T) {
		owner.MustRun("rm", "--app", session)
		w.Eventually(30*time.Second, func() error {
			if _, err := client.Get(netip.Addr{}, local); err == nil {
				return fmt.Errorf("the port still answers")
			}
			return nil
		})
		var events string
		w.Eventually(30*time.Second, func() error {
			if events = owner.MustRun("events"); !strings.Contains(events, "app_removed") {
				return fmt.Errorf("no event tells that the app is gone:\n%s", events)
			}
			return nil
		})
	})
}

// watch asks over and over until stop is closed, and then tells what failed.
func watch(client *harness.Client, at netip.AddrPort) (stop chan struct{}, failures chan []error) {
	stop, failures = make(chan struct{}), make(chan []error, 1)
	go func() {
		var lost []error
		for {
			select {
			case <-stop:
				failures <- lost
				return
			case <-time.After(50 * time.Millisecond):
			}
			if _, err := client.Get(netip.Addr{}, at); err != nil {
				lost = append(lost, err)
			}
		}
	}()
	return stop, failures
}
