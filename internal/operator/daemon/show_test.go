package daemon

import (
	"bytes"
	"strings"
	"testing"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/netcheck"
)

// TestShowNamesWhoseOwnersHaveToAct: after an update of Cupel people see at once
// which apps must not be stopped before their owner has deployed them.
func TestShowNamesWhoseOwnersHaveToAct(t *testing.T) {
	var out bytes.Buffer
	Show(&out, "state", Serving{})
	if strings.Contains(out.String(), "run on") {
		t.Errorf("nobody has to act:\n%s", &out)
	}
	Show(&out, "state", Serving{NeedOwner: needOwner([]managerapi.App{{Name: "shop", Session: "alice/shop"}})})
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
	s := Serving{TakenPorts: takenPorts([]managerapi.App{{Name: "shop", Problem: taken}})}
	var out, asJSON bytes.Buffer
	Show(&out, "state", s)
	if want := "\n  Warning: these apps run, and their users don't reach them:\n    shop: another program has port 8082. stop it\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%s\nwant in it:\n%s", &out, want)
	}
	if err := (&cli{out: &asJSON}).printServing(s); err != nil || !strings.Contains(asJSON.String(), `"taken_ports":["shop: another program has port 8082. stop it"]`) {
		t.Errorf("%v: %s", err, &asJSON)
	}
}

// TestShowNamesTheStateFolder: the commands that it shows are about this installation, and
// so are those in what is told and warned of while a command works.
func TestShowNamesTheStateFolder(t *testing.T) {
	var out bytes.Buffer
	c := &cli{err: &out}
	c.opts.State = "/srv/a"
	room := problem.New(problem.Unavailable, "disk_full", "1 GB is free").Want("800 GB").Fix("%s; what is needed is by cupel up --min-free", mendByRemoving)
	taken := problem.New(problem.Conflict, "port_taken", "another program has port 8082").Fix("stop it; or see 'cupel ps'")
	Show(&out, c.opts.State, Serving{
		DiskFull: room, TakenPorts: takenPorts([]managerapi.App{{Name: "shop", Problem: taken}}), Damaged: []string{"run cupel runtime build python"},
		Network: []netcheck.Probe{{What: "x", Mend: []string{"cupel up --cas-instances 0.0.0.0:1"}}}, Unchecked: problem.New(problem.Unavailable, "x", "x"),
	})
	c.tell()("cupel down --force does not wait long for it")
	c.logger().Warn("see cupel events")
	for _, want := range []string{
		"make room there (cupel rm --state /srv/a --app, cupel volume rm --state /srv/a); what is needed is by cupel up --state /srv/a --min-free\n",
		"stop it; or see 'cupel ps --state /srv/a'\n", "run cupel runtime build --state /srv/a python\n",
		"mend: cupel up --state /srv/a --cas-instances 0.0.0.0:1\n", "Then try again: cupel check --state /srv/a\n", "  Try again: cupel check --state /srv/a\n",
		"cupel down --state /srv/a --force does not wait long for it\n", `msg="see cupel events --state /srv/a"`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s\nwant in it: %s", &out, want)
		}
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
