package castest

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestReleaseRefused plays instances that are not what they should be. Each is
// refused with its own rule, and afterwards the session has no instance.
func TestReleaseRefused(t *testing.T) {
	e := begin(t, Options{})
	o := e.Owner(t)
	create(t, o, sessionText("x"))
	create(t, o, sessionText("y"))
	tolerating := map[string]string{
		"nosim":   "tolerate: [debug-mode]",
		"bare":    "tolerate: [debug-mode, simulation]", // as templates wrote it once
		"foreign": "tolerate: [debug-mode, simulation, simulation:" + ident.Digest{7}.String() + "]",
	}
	for name, tolerate := range tolerating {
		create(t, o, []byte(strings.Replace(string(sessionText(name)), `tolerate: ["simulation:$SIMULATION_ROOT"]`, tolerate, 1)))
	}
	under := func(session ident.SessionName) func(in *Instance) {
		return func(in *Instance) {
			in.Session, in.Grant = session, e.Token(t.Context(), session, "client-app")
			in.Launch.ConfigID = wire.LaunchBinding(e.Identity, session, "client-app")
		}
	}
	other, err := simtee.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		rule problem.Rule
		lie  func(in *Instance)
	}{
		{"other code", "measurement", func(in *Instance) { in.Launch.Measurement = ident.Measurement{0x33} }},
		{"code of another service", "measurement", func(in *Instance) { in.Launch.Measurement = pullCode }},
		{"launched for another session", "config_id", func(in *Instance) {
			in.Launch.ConfigID = wire.LaunchBinding(e.Identity, "y", "client-app")
		}},
		{"launched for another service", "config_id", func(in *Instance) {
			in.Launch.ConfigID = wire.LaunchBinding(e.Identity, "x", "pull_repo")
		}},
		{"launched for another CAS", "config_id", func(in *Instance) {
			in.Launch.ConfigID = wire.LaunchBinding(ident.KeyHash{9}, "x", "client-app")
		}},
		{"evidence of another connection", "report_data", func(in *Instance) {
			in.Evidence = func(evidence.Data64) (evidence.Evidence, error) {
				return in.Platform.Quote(in.Launch, wire.ReportData([32]byte{1}, in.Key.Hash))
			}
		}},
		{"another platform's root", "simulation_root", func(in *Instance) { in.Platform = other }},
		{"no evidence", "evidence_type", func(in *Instance) {
			in.Evidence = func(evidence.Data64) (evidence.Evidence, error) { return evidence.Evidence{}, nil }
		}},
		{"simulation not tolerated", "simulation", under("nosim")},
		{"simulation tolerated without a root", "simulation", under("bare")},
		{"simulation tolerated under another root", "simulation", under("foreign")},
		{"no such session", "session_unknown", func(in *Instance) { in.Session = "z" }},
		{"no such service", "service_unknown", func(in *Instance) { in.Service = "z" }},
		{"bad name", "session_name", func(in *Instance) { in.Session = "/x" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := e.Instance(t, "x", "client-app", appCode)
			c.lie(in)
			conn, _, err := in.Release(t.Context())
			if err == nil {
				conn.Close()
			}
			refused(t, err, c.rule)
		})
	}
	for _, name := range []string{"x", "y", "nosim", "bare", "foreign"} {
		if n := instances(t, o, name); len(n) != 0 {
			t.Errorf("session %s has instances %v", name, n)
		}
	}
}

// TestSimulationNotGiven: the CAS's own opt-in is missing.
func TestSimulationNotGiven(t *testing.T) {
	e := begin(t, Options{NoSimulation: true})
	create(t, e.Owner(t), sessionText("x"))
	_, _, err := e.Instance(t, "x", "client-app", appCode).Release(t.Context())
	refused(t, err, "simulation_root")
}

func TestModeNone(t *testing.T) {
	text := func(name string) []byte {
		return []byte(strings.Replace(string(sessionText(name)), `tolerate: ["simulation:$SIMULATION_ROOT"]`, "mode: none", 1))
	}
	e := begin(t, Options{})
	_, err := e.Owner(t).Do(t.Context(), http.MethodPost, owners.PathSessions, text("x"), nil)
	refused(t, err, "mode_none")

	dir := t.TempDir()
	loose := begin(t, Options{AllowUnattested: true, Dir: dir})
	create(t, loose.Owner(t), text("x"))
	in := loose.Instance(t, "x", "client-app", ident.Measurement{0x77})
	mustRelease(t, in)
	loose.Stop()
	strict := begin(t, Options{Dir: dir})
	_, _, err = strict.Instance(t, "x", "client-app", ident.Measurement{0x77}).Release(t.Context())
	refused(t, err, "mode_none")
}

// TestInstancesTransport: what the instances' listener demands before HTTP.
func TestInstancesTransport(t *testing.T) {
	e := begin(t, Options{})
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.2":        func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
	} {
		key, err := NewKey()
		if err != nil {
			t.Fatal(err)
		}
		c := tlsConfig(key, e.Identity)
		change(c)
		conn, err := tls.Dial("tcp", e.Instances, c)
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // TLS 1.3: the alert comes after the client's finish
			_ = conn.Close()
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func TestReleaseBadBodies(t *testing.T) {
	e := begin(t, Options{})
	for name, c := range map[string]struct {
		body string
		rule problem.Rule
	}{
		"empty":         {"", "json"},
		"not JSON":      {"{", "json"},
		"unknown field": {`{"version":1,"session":"x","service":"y","evidence":{"type":"sgx","quote":""},"admin":true}`, "json"},
		"trailing":      {`{"version":1} {}`, "json"},
		"version":       {`{"version":3,"session":"x","service":"y"}`, "protocol_version"},
		"too large":     {`{"version":1,"session":"` + strings.Repeat("x", 2<<20) + `"}`, "body_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := e.Instance(t, "x", "y", appCode).Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			status, b, err := conn.PostBytes(wire.PathRelease, []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			refused(t, problem.Read(status, b), c.rule)
		})
	}
}

// TestAskAgain: an answer that was lost is given again, the same one; after the
// instance was heard of, or under another name, it is not.
func TestAskAgain(t *testing.T) {
	e := begin(t, Options{})
	o := e.Owner(t)
	create(t, o, sessionText("x"))
	create(t, o, sessionText("y"))
	in := e.Instance(t, "x", "client-app", appCode)
	_, first := mustRelease(t, in)
	_, second := mustRelease(t, in)
	if a, b := marshal(t, first.Files), marshal(t, second.Files); a != b {
		t.Error("the second answer has other files")
	}
	if n := len(instances(t, o, "x")); n != 1 {
		t.Errorf("%d instances", n)
	}
	thief := *in
	thief.Session, thief.Grant = "y", e.Token(t.Context(), "y", "client-app")
	thief.Launch.ConfigID = wire.LaunchBinding(e.Identity, "y", "client-app")
	_, _, err := thief.Release(t.Context())
	refused(t, err, "instance_key_used")
}

func marshal(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCollateralNeverOlder(t *testing.T) {
	e := begin(t, Options{})
	create(t, e.Owner(t), sessionText("x"))
	at := func(issued time.Time, evaluation int) *Instance {
		p, err := e.Platform.In(simtee.Condition{IssuedAt: issued, Evaluation: evaluation})
		if err != nil {
			t.Fatal(err)
		}
		in := e.Instance(t, "x", "client-app", appCode)
		in.Platform = p
		return in
	}
	now := time.Now().Add(-time.Hour)
	mustRelease(t, at(now, 20))
	mustRelease(t, at(now.Add(time.Minute), 21))
	_, _, err := at(now, 21).Release(t.Context())
	refused(t, err, "collateral_older")
	_, _, err = at(now.Add(time.Minute), 20).Release(t.Context())
	refused(t, err, "collateral_older")

	e.Stop()
	again := begin(t, Options{Dir: e.Dir})
	in := at(now, 21)
	in.Addr = again.Instances
	_, _, err = in.Release(t.Context())
	refused(t, err, "collateral_older")
	in = at(now.Add(time.Minute), 21)
	in.Addr = again.Instances
	mustRelease(t, in)
}

func TestClockWentBack(t *testing.T) {
	offset := new(atomicDuration)
	clock := func() time.Time { return time.Now().Add(offset.get()) }
	e := begin(t, Options{Now: clock})
	o := e.Owner(t)
	create(t, o, sessionText("x"))
	p, err := e.Platform.In(simtee.Condition{IssuedAt: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	e.Platform = p
	mustRelease(t, e.Instance(t, "x", "client-app", appCode))
	offset.set(-4 * time.Minute)
	mustRelease(t, e.Instance(t, "x", "client-app", appCode))
	offset.set(-6 * time.Minute)
	_, _, err = e.Instance(t, "x", "client-app", appCode).Release(t.Context())
	refused(t, err, "clock_went_back")
	if p := problem.From(err); !strings.Contains(p.Mend, "was ahead at that entry, the CAS releases again from 20") {
		t.Errorf("mend: %s", p.Mend)
	}
	_, err = o.Do(t.Context(), http.MethodGet, owners.PathHealth, nil, nil)
	refused(t, err, "clock_went_back")
	e.Stop()
	again := begin(t, Options{Dir: e.Dir, Now: clock})
	_, _, err = again.Instance(t, "x", "client-app", appCode).Release(t.Context())
	refused(t, err, "clock_went_back")
}
