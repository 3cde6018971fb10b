package session

import (
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
)

const plainService = `
version: "0.3"
name: own-keys
services:
  - name: app
    attestation: {mrenclave: "4f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8"}
`

func parsed(t *testing.T, text string) *Session {
	t.Helper()
	s, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOwnKeysAreReadAndWrittenBack(t *testing.T) {
	s := parsed(t, plainService+`    cupel: {stop_signal: QUIT, on_renewal: SIGHUP, offline: 10m}
salt: 00112233445566778899aabbccddeeff
access_policy: {deploy: [CREATOR]}
`)
	svc := s.Services[0]
	if svc.StopSignal != "SIGQUIT" || svc.OnRenewal != "SIGHUP" || svc.Offline != 10*time.Minute || !s.Salted() {
		t.Fatalf("read %+v", svc)
	}

	again := parsed(t, string(s.Canonical()))
	if string(again.Canonical()) != string(s.Canonical()) || again.Hash(ident.KeyHash{1}) != s.Hash(ident.KeyHash{1}) {
		t.Fatalf("the canonical form reads back as\n%s\nwant\n%s", again.Canonical(), s.Canonical())
	}

	if strings.Contains(string(s.Redacted()), "00112233") {
		t.Error("the redacted form shows the salt")
	}
}

func TestOwnKeysThatAreNotSetAreNotWritten(t *testing.T) {
	text := string(parsed(t, plainService).Canonical())
	for _, key := range []string{"cupel", "salt", "deploy"} {
		if strings.Contains(text, key+":") {
			t.Errorf("%s is written without being set:\n%s", key, text)
		}
	}
}

func TestOwnKeysAreRefused(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a signal that kills", "    cupel: {stop_signal: SIGKILL}\n", "stop_signal"},
		{"a signal that is none", "    cupel: {on_renewal: SIGSIG}\n", "on_renewal"},
		{"no signal to stop", "    cupel: {stop_signal: none}\n", "stop_signal"},
		{"an unknown key", "    cupel: {stop-signal: SIGTERM}\n", "stop_signal"},
		{"a time that is none", "    cupel: {offline: soon}\n", "written like 90s"},
		{"a time that is too short", "    cupel: {offline: 5s}\n", "from 1m0s"},
		{"a fraction of a second", "    cupel: {offline: 90.5s}\n", "whole seconds"},
		{"deploy without anybody", "access_policy: {deploy: []}\n", "write [NONE] for nobody"},
		{"deploy with anybody and a key", "access_policy: {deploy: [ANY, CREATOR]}\n", "not alone"},
	} {
		_, err := Parse([]byte(plainService + c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to say %q", c.name, err, c.want)
		}
	}
}

func TestWhoMayDeploy(t *testing.T) {
	creator, colleague, stranger := ident.KeyHash{1}, ident.KeyHash{2}, ident.KeyHash{3}

	for _, c := range []struct {
		name, policy    string
		creator, coll   bool
		stranger, grant bool
	}{
		{"not written", "", true, false, false, true},
		{"not written, a colleague may update", "access_policy: {update: [CREATOR, " + colleague.String() + "]}\n", true, true, false, true},
		{"a colleague alone", "access_policy: {deploy: [" + colleague.String() + "]}\n", false, true, false, true},
		{"nobody", "access_policy: {deploy: [NONE]}\n", false, false, false, true},
		{"anybody", "access_policy: {deploy: [ANY]}\n", true, true, true, false},
	} {
		p := parsed(t, plainService+c.policy).Access
		got := []bool{p.Allows(OpDeploy, creator, creator), p.Allows(OpDeploy, colleague, creator), p.Allows(OpDeploy, stranger, creator), p.AsksForGrant()}
		if want := []bool{c.creator, c.coll, c.stranger, c.grant}; got[0] != want[0] || got[1] != want[1] || got[2] != want[2] || got[3] != want[3] {
			t.Errorf("%s: creator, colleague, stranger, grant asked for: %v, want %v", c.name, got, want)
		}
	}
}

func TestWhichUpdateEndsAGrant(t *testing.T) {
	maker := ident.KeyHash{1}

	for _, c := range []struct {
		name, policy string
		asCreator    bool
		ends         bool
	}{
		{"not written", "", true, false},
		{"the maker's key", "access_policy: {deploy: [" + maker.String() + "]}\n", false, false},
		{"CREATOR, who made it as such", "access_policy: {deploy: [CREATOR]}\n", true, false},
		{"CREATOR, who made it as another", "access_policy: {deploy: [CREATOR]}\n", false, true},
		{"another key", "access_policy: {deploy: [" + ident.KeyHash{2}.String() + "]}\n", true, true},
		{"nobody", "access_policy: {deploy: [NONE]}\n", true, true},
		{"anybody", "access_policy: {deploy: [ANY]}\n", false, false},
	} {
		if ends := parsed(t, plainService+c.policy).Access.EndsGrant(maker, c.asCreator); ends != c.ends {
			t.Errorf("%s: ends %v, want %v", c.name, ends, c.ends)
		}
	}
}
