package daemon

import (
	"bytes"
	"strings"
	"testing"

	wire "cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/problem"
)

// TestShowNamesWhoseOwnersHaveToAct: after an update of Cupel people see at once
// which apps must not be stopped before their owner has deployed them.
func TestShowNamesWhoseOwnersHaveToAct(t *testing.T) {
	var out bytes.Buffer
	Show(&out, "state", Serving{})
	if strings.Contains(out.String(), "run on") {
		t.Errorf("nobody has to act:\n%s", &out)
	}
	Show(&out, "state", Serving{NeedOwner: needOwner([]wire.App{{Name: "shop", Session: "alice/shop"}})})
	want := "  These apps run on, but the CAS will not let them start again:\n" +
		"    shop: its owner has to deploy it once: cupel deploy alice/shop --name shop\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("%s\nwant in it:\n%s", &out, want)
	}
}

// TestShowWarnsOfTakenPorts: whoever starts an installation sees at once which apps'
// users reach another program.
func TestShowWarnsOfTakenPorts(t *testing.T) {
	taken := problem.New(problem.Conflict, "port_taken", "another program has port 8082").Fix("stop it")
	s := Serving{TakenPorts: takenPorts([]wire.App{{Name: "shop", Problem: taken}})}
	var out, asJSON bytes.Buffer
	Show(&out, "state", s)
	if want := "\n  Warning: these apps run, and their users don't reach them:\n    shop: another program has port 8082. stop it\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%s\nwant in it:\n%s", &out, want)
	}
	if err := (&cli{out: &asJSON}).printServing(s); err != nil || !strings.Contains(asJSON.String(), `"taken_ports":["shop: another program has port 8082. stop it"]`) {
		t.Errorf("%v: %s", err, &asJSON)
	}
}

// TestShowTellsOfTheUnit: whoever starts an installation sees what became of a unit of
// an earlier release.
func TestShowTellsOfTheUnit(t *testing.T) {
	var out bytes.Buffer
	Show(&out, "state", Serving{Service: "cupel.service was of an earlier release"})
	if !strings.Contains(out.String(), "\n  cupel.service was of an earlier release\n") {
		t.Errorf("%s", &out)
	}
}
