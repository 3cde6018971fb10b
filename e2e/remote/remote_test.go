//go:build e2e

// Package remote holds the promise that an owner needs no machine of the operator's:
// one program, one address, and what they pinned themselves.
package remote

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/internal/testing/netlab"
)

const session = "far"

func TestOwnerOnAnotherMachine(t *testing.T) {
	managerPort, casPort, port := harness.FreePort(t), harness.FreePort(t), harness.FreePort(t)
	w := harness.New(t, harness.Config{UpFlags: upFlags(managerPort, casPort)})
	w.Git.Push("app", harness.ExampleApp(w))
	w.BuildRuntimes("puller", "python")
	space, here := anotherMachine(t, w)
	url := fmt.Sprintf("https://%s:%d", here, managerPort)
	owner := w.RemoteOwner("owner", space, url)

	// What the operator says of itself on its own machine is what is compared.
	var theirs manager.Info
	w.Operator.MustJSON(&theirs, "info")
	first := owner.Run("info")
	t.Log(first)
	for _, want := range []string{theirs.OperatorKey.String(), w.Info().CertSHA256} {
		if first.Code != 0 || !strings.Contains(first.Stderr, want) {
			t.Errorf("the first look doesn't show %s: %s", want, first)
		}
	}
	var info manager.Info
	owner.MustJSON(&info, "info")
	if want := fmt.Sprintf("%s:%d", here, casPort); info.CAS.Owners != want {
		t.Errorf("the CAS is at %s, want %s", info.CAS.Owners, want)
	}

	// Everything that is measured comes over that address, and is believed by its signatures.
	if out := owner.MustRun("runtime", "show", "python"); !strings.Contains(out, "name: python") {
		t.Errorf("runtime show: %s", out)
	}
	owner.MustRun("runtime", "measure", "puller")
	owner.WriteFile("python.lock", owner.MustRun("runtime", "show", "python", "--lock"))
	owner.MustRun("runtime", "measure", "python", "--lock", "python.lock")

	owner.MustRefuse("simulation_root", "cas", "attest") // the provider's word is none
	owner.MustRun("cas", "attest", "--trust-simulation", info.Simulation.String())
	inputs := []string{"--runtime", "python", "--command", harness.AppCommand, "--dns", here.String() + ",localhost", "--simulation"}
	owner.WriteFile("client-session.yml", owner.MustRun(append([]string{"template"}, inputs...)...))
	owner.MustRun(append(owner.SessionArgs("client-session.yml", session, "app"), "--dns", here.String()+",localhost")...)

	out := owner.Deploy(session, 2, port)
	if want := fmt.Sprintf("behind https://%s:%d", here, port); !strings.Contains(out, want) {
		t.Errorf("want %q: %s", want, out)
	}
	var grants []struct {
		Provider  string `json:"provider"`
		ClaimedBy string `json:"claimed_by"`
	}
	owner.MustJSON(&grants, "session", "grants", session)
	if len(grants) != 1 || grants[0].Provider != theirs.OperatorKey.String() || grants[0].ClaimedBy != grants[0].Provider {
		t.Errorf("grants %+v: want one, for %s", grants, theirs.OperatorKey)
	}
	verified := owner.MustRun("verify", session)
	if want := fmt.Sprintf("%s:%d, certificate for %s", here, port, here); !strings.Contains(verified, want) {
		t.Errorf("want %q: %s", want, verified)
	}
	client := owner.AppClient(session).In(space)
	if a, err := client.Get(netip.Addr{}, netip.AddrPortFrom(here, port)); err != nil || a.Message != "Hello from inside" {
		t.Errorf("%+v, %v", a, err)
	}
	for _, args := range [][]string{{"ps", session}, {"logs", session}, {"events", session}} {
		if out := owner.MustRun(args...); !strings.Contains(out, session) && !strings.Contains(out, "serving on port") {
			t.Errorf("%v: %s", args, out)
		}
	}

	t.Run("a code is for that operator alone", func(t *testing.T) {
		var made struct {
			Grant struct {
				Provider string `json:"provider"`
			} `json:"grant"`
		}
		owner.MustJSON(&made, "session", "submit", session, "--name", "other")
		if made.Grant.Provider != theirs.OperatorKey.String() {
			t.Errorf("the code is for %q", made.Grant.Provider)
		}
	})

	t.Run("another manager at the address is refused", func(t *testing.T) {
		w.Operator.MustRun("down")
		for _, name := range []string{"manager.key", "manager.crt", "operator.key", "operator.crt", "ports.json"} {
			if err := os.Remove(filepath.Join(w.State, name)); err != nil {
				t.Fatal(err)
			}
		}
		w.Up(upFlags(managerPort, casPort), nil)
		r := owner.Run("deploy", session, "-o", "json")
		var refusal harness.Problem
		if err := json.Unmarshal([]byte(r.Stderr), &refusal); err != nil || refusal.Rule != "provider_certificate" || !strings.Contains(refusal.Mend, "cupel provider forget") {
			t.Errorf("want a refusal with the way out: %s", r)
		}
		owner.MustRun("provider", "forget", url)
		owner.MustRun("info")
	})
	owner.MustRun("session", "rm", session, "--yes")
}

func upFlags(managerPort, casPort uint16) []string {
	return []string{"--manager-listen", fmt.Sprintf("0.0.0.0:%d", managerPort), "--cas-owners", fmt.Sprintf("0.0.0.0:%d", casPort)}
}

// anotherMachine makes one that reaches this one over a link of its own (RFC 2544, for
// tests), and returns this machine's address there.
func anotherMachine(t *testing.T, w *harness.World) (*netlab.Space, netip.Addr) {
	t.Helper()
	here, there := netip.MustParseAddr("198.18.78.1"), netip.MustParseAddr("198.18.78.2")
	space := netlab.New(t)
	link := space.Link(t, "r"+w.ID(), there.String()+"/30")
	if err := netlab.AddAddress(link, netip.PrefixFrom(here, 30)); err != nil {
		t.Fatal(err)
	}
	return space, here
}
