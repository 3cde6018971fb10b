package daemon

import (
	"bytes"
	"strings"
	"testing"

	wire "cupel.dev/cupel/client/manager"
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

// TestShowTellsOfTheUnit: whoever starts an installation sees what became of a unit of
// an earlier release.
func TestShowTellsOfTheUnit(t *testing.T) {
	var out bytes.Buffer
	Show(&out, "state", Serving{Service: "cupel.service was of an earlier release"})
	if !strings.Contains(out.String(), "\n  cupel.service was of an earlier release\n") {
		t.Errorf("%s", &out)
	}
}
