//go:build e2e

// Package faults holds the promise about bad input and faults: each ends in a
// message that names the rule and the mend, nothing is left half-made, and
// `cupel rm` always works. A steady app runs beside it all and is never touched.
package faults

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/e2e/harness"
)

// stage is the one world of this test.
type stage struct {
	*harness.World
	owner  *harness.Party
	port   uint16   // of the steady app
	steady []string // its instances
	clean  []string // what is on the machine while only the steady app runs
}

// newStage makes a world in which the steady app runs.
func newStage(t *testing.T, cfg harness.Config) *stage {
	t.Helper()
	w := harness.New(t, cfg)
	s := &stage{World: w, owner: w.Owner("owner"), port: harness.FreePort(t)}
	w.Git.Push("app", harness.ExampleApp(w))
	w.BuildRuntimes("puller", "python")
	s.owner.Vouch("puller", "python")
	s.owner.AttestCAS()
	s.owner.Template()
	s.session("steady", nil)
	s.owner.Deploy("steady", 1, s.port)
	s.steady, s.clean = s.owner.Healthy("steady"), s.made()
	return s
}

func TestFaults(t *testing.T) {
	s := newStage(t, harness.Config{})
	s.Git.Push("other", map[string]string{"README": "no app here\n"})

	t.Run("input", s.input)
	t.Run("pull", s.pull)
	t.Run("update that fails", s.update)
	t.Run("port taken", s.portTaken)
	t.Run("measurement mismatch", s.mismatch)
	t.Run("CAS restarted in the middle", s.casRestarted) // before it is away: cupeld backs off too
	t.Run("CAS hangs", s.casHangs)
	t.Run("CAS away", s.casAway)
	t.Run("command ended at every step", s.commandEnded)
	t.Run("daemon ended at every step", s.daemonEnded)
	t.Run("nothing runs", s.nothingRuns)
}

// session creates a session of the app's repository; values replace those of
// its variables.
func (s *stage) session(name string, values map[string]string, flags ...string) {
	s.T.Helper()
	s.owner.MustRun(s.sessionArgs(s.owner, name, values, flags...)...)
}

func (s *stage) sessionArgs(p *harness.Party, name string, values map[string]string, flags ...string) []string {
	args := p.SessionArgs(filepath.Join(p.Dir, "client-session.yml"), name, "app")
	for i, arg := range args {
		if key, _, ok := strings.Cut(arg, "="); ok && values[key] != "" {
			value := values[key]
			if key == "ACCESS_TOKEN" { // which stands on no command line
				value = "@" + p.WriteFile("another-token", value)
			}
			args[i] = key + "=" + value
		}
	}
	return append(args, flags...)
}

// deployArgs are those of a deployment that should fail, or of a small one, on
// a port that nobody else's test counts up to.
func (s *stage) deployArgs(session string, more ...string) []string {
	args := []string{"deploy", session, "--instances", "2", "--memory", "128M"}
	if !slices.Contains(more, "--port") {
		args = append(args, "--port", strconv.Itoa(int(harness.FreePort(s.T))))
	}
	return append(args, more...)
}

// want checks a refusal: the rule, the exit code of its kind, and that a person
// is told what to do. It shows the message.
func want(t *testing.T, r harness.Result, rule string, code int, texts ...string) {
	t.Helper()
	said := regexp.MustCompile("(?m)^cupeld?: (the operator says: )?" + rule + ": ")
	if r.Code != code || !said.MatchString(r.Stderr) {
		t.Errorf("want rule %s with exit code %d: %s", rule, code, r)
		return
	}
	for _, text := range append(texts, "mend: ") {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("the message lacks %q: %s", text, r)
		}
	}
	t.Logf("%s\n%s", strings.Join(r.Args[:min(3, len(r.Args))], " "), strings.TrimSpace(r.Stderr))
}

// removed removes an app and checks that only the steady one is left, as it was.
func (s *stage) removed(t *testing.T, app string) {
	t.Helper()
	if r := s.owner.Run("rm", "--app", app); r.Code != 0 {
		t.Fatalf("remove the app: %s", r)
	}
	s.untouched(t)
}

func (s *stage) untouched(t *testing.T) {
	t.Helper()
	var left []string
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		left = slices.DeleteFunc(s.made(), func(m string) bool { return slices.Contains(s.clean, m) })
		if len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("half-made things are left:\n  %s", strings.Join(left, "\n  "))
			break
		}
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		got := s.owner.Healthy("steady")
		if slices.Equal(got, s.steady) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the steady app's instances are %v, were %v", got, s.steady)
		}
	}
}

func (s *stage) input(t *testing.T) {
	stranger := s.Owner("stranger")
	stranger.AttestCAS()
	template, measured := s.template(t)
	stranger.WriteFile("client-session.yml", template)
	accept := []string{"--accept-measurement", strings.Join(measured, ",")}
	for _, c := range []struct {
		name string
		by   *harness.Party
		args []string
		rule string
		code int
		text string
	}{
		{"repository in the clear", s.owner, s.sessionArgs(s.owner, "clear", map[string]string{"GIT_REPO": "http://git.example.com/app.git"}), "git_repository", 2, "https://"},
		{"name taken by another key", stranger, s.sessionArgs(stranger, "steady", nil, accept...), "session_name_taken", 4, "another key"},
		{"name taken by oneself", s.owner, s.sessionArgs(s.owner, "steady", map[string]string{"GIT_REPO": s.Git.URL("other")}), "session_name_taken", 4, "--update"},
		{"memory is no size", s.owner, []string{"deploy", "steady", "--memory", "lots"}, "memory", 2, "256M"},
		{"too little memory", s.owner, []string{"deploy", "steady", "--memory", "1M"}, "memory", 2, "32M"},
		{"more memory than there can be", s.owner, []string{"deploy", "steady", "--memory", "99999999G"}, "memory", 2, "too large"},
		{"no port", s.owner, []string{"deploy", "steady", "--port", "70000"}, "port", 2, "65535"},
		{"no instances", s.owner, []string{"deploy", "steady", "--instances", "0"}, "instances", 2, "cupel rm --state"},
		{"unknown session", s.owner, []string{"deploy", "nowhere"}, "session_unknown", 3, "create the session"},
		{"unknown app", s.owner, []string{"rm", "--app", "nowhere"}, "app", 3, "cupel ps"},
		{"somebody else's app", stranger, []string{"rm", "--app", "steady"}, "not_owner", 6, "--config"},
		{"unknown flag", s.owner, []string{"deploy", "steady", "--memroy", "1G"}, "usage", 2, "--help"},
	} {
		t.Run(c.name, func(t *testing.T) { want(t, c.by.Run(c.args...), c.rule, c.code, c.text) })
	}
	s.untouched(t)
}

// pull: what is wrong with the repository is found out inside of an instance,
// whose exit code is all that the operator learns.
func (s *stage) pull(t *testing.T) {
	for _, c := range []struct {
		name   string
		values map[string]string
		rule   string
		code   int
		text   string
	}{
		{"wrong-token", map[string]string{"ACCESS_TOKEN": "not-the-token"}, "pull_token", 5, "ACCESS_TOKEN"},
		{"wrong-repository", map[string]string{"GIT_REPO": s.Git.URL("nothing")}, "pull_repository", 3, "GIT_REPO"},
		{"no-command-file", map[string]string{"GIT_REPO": s.Git.URL("other")}, "pull_command", 3, "client-app.py"},
		{"no-such-host", map[string]string{"GIT_REPO": "https://git.invalid/app.git"}, "pull_unreachable", 7, "GIT_REPO"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.session(c.name, c.values)
			r := s.owner.Run(s.deployArgs(c.name)...)
			want(t, r, c.rule, c.code, c.text)
			if strings.Contains(r.Stdout+r.Stderr, "not-the-token") {
				t.Error("the message holds the token")
			}
			s.removed(t, c.name)
		})
	}
	t.Run("mended", func(t *testing.T) {
		s.session("wrong-token", nil, "--update")
		if r := s.owner.Run(s.deployArgs("wrong-token")...); r.Code != 0 {
			t.Error(r)
		}
		s.removed(t, "wrong-token")
	})
}

// update: a repository that lost the app leaves what ran as it was, also when
// that has to start again.
func (s *stage) update(t *testing.T) {
	s.Git.Push("moving", harness.ExampleApp(s.World))
	s.session("moving", map[string]string{"GIT_REPO": s.Git.URL("moving")})
	s.owner.MustRun(s.deployArgs("moving")...)
	before := s.owner.Healthy("moving")
	s.Git.Push("moving", map[string]string{"README": "the app is gone\n"})
	want(t, s.owner.Run("deploy", "moving"), "pull_command", 3)
	if got := s.owner.Healthy("moving"); !slices.Equal(got, before) {
		t.Errorf("instances are %v, were %v", got, before)
	}
	for _, pid := range s.processes("python3", before[0]) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	s.Eventually(30*time.Second, func() error {
		for _, i := range s.owner.Instances("moving") {
			if i.ID == before[0] && i.Restarts > 0 && i.Health == "healthy" {
				return nil
			}
		}
		return fmt.Errorf("%s was not started again: %s", before[0], s.owner.Run("ps", "moving"))
	})
	s.removed(t, "moving")
}

func (s *stage) portTaken(t *testing.T) {
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	s.session("ports", nil)
	held := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	want(t, s.owner.Run(s.deployArgs("ports", "--port", held)...), "port_taken", 4, held)
	other := strconv.Itoa(int(s.port))
	want(t, s.owner.Run(s.deployArgs("ports", "--port", other)...), "port_taken", 4, other, "another app")
	s.untouched(t)
}

// template returns the owner's template and the measurements in it: of the
// puller, and of the app's runtime.
func (s *stage) template(t *testing.T) (text string, measured []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.owner.Dir, "client-session.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mrenclave.FindAllStringSubmatch(string(b), -1) {
		measured = append(measured, m[1])
	}
	if len(measured) != 2 {
		t.Fatalf("measurements of the template: %q", measured)
	}
	return string(b), measured
}

var mrenclave = regexp.MustCompile(`mrenclave: \["?([0-9a-f]{64})"?\]`)

// mismatch: the owner vouched for code that the operator doesn't run.
func (s *stage) mismatch(t *testing.T) {
	template, measured := s.template(t)
	runs, expected := measured[0], strings.Repeat("ab", 32)
	file := s.owner.WriteFile("mismatch.yml", strings.Replace(template, runs, expected, 1))
	args := s.owner.SessionArgs(file, "mismatch", "app")
	refused := s.owner.Run(args...)
	if refused.Code == 0 || !strings.Contains(refused.Stderr, expected) {
		t.Fatalf("a measurement that nobody vouched for: %s", refused)
	}
	s.owner.MustRun(append(args, "--accept-measurement", expected)...)
	want(t, s.owner.Run(s.deployArgs("mismatch")...), "measurement", 6, runs, "expected: "+expected)
	s.removed(t, "mismatch")
}

// casAway: the CAS doesn't come back; an owner's command ends soon, and so does
// a deployment at the time that it was given.
func (s *stage) casAway(t *testing.T) {
	s.session("away", nil)
	back := s.takeCAS(t)
	defer back()
	want(t, s.owner.Run("session", "read", "steady", "--wait", "1s"), "cas_unreachable", 7, "1 second")
	want(t, s.owner.Run(s.deployArgs("away", "--wait", "1s")...), "cas_unreachable", 7)
	s.untouched(t)
	back()
	s.Eventually(60*time.Second, func() error { return s.casAnswers() })

	r := s.deploy(t, "away", []string{"--timeout", "4s"}, "images", func(int) { back = s.takeCAS(t) })
	if r.Code != 7 || !strings.Contains(r.Stdout, `"cas_unreachable"`) || !strings.Contains(r.Stderr, `"deploy_timeout"`) || !strings.Contains(r.Stderr, "cupel rm --state "+s.State+" --app away") {
		t.Errorf("a deployment whose CAS is gone: %s", r)
	}
	t.Log(r.Stdout, r.Stderr)
	want(t, s.owner.Run("rm", "--app", "away", "--wait", "1s"), "rm_unconfirmed", 7, "cas_unreachable", "run this again when the CAS answers")
	s.untouched(t)
	back()
	s.Eventually(60*time.Second, func() error { return s.casAnswers() })
	s.Eventually(60*time.Second, func() error { // the manager gives its grant back
		if r := s.owner.Run("rm", "--app", "away"); r.Code != 3 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	if grants := s.owner.MustRun("session", "grants", "away"); strings.Contains(grants, "claimed,") || strings.Contains(grants, " claimed ") {
		t.Errorf("what is gone has rights:\n%s", grants)
	}
}

// casRestarted: instances try again, and the deployment ends well.
func (s *stage) casRestarted(t *testing.T) {
	for n, step := range []string{"images", "pull"} {
		name := "restarted-" + strconv.Itoa(n)
		s.session(name, nil)
		r := s.deploy(t, name, nil, step, func(int) { s.Kill("cupel-cas", syscall.SIGKILL) })
		if r.Code != 0 {
			t.Errorf("CAS killed after step %s: %s", step, r)
		}
		s.removed(t, name)
	}
}

// casHangs: a CAS that was stopped is ended and started again, and costs nobody a place.
func (s *stage) casHangs(t *testing.T) {
	hung := s.Processes("cupel-cas")[0].PID
	if err := syscall.Kill(hung, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.Eventually(time.Minute, func() error {
		if p := s.Processes("cupel-cas"); len(p) != 1 || p[0].PID == hung {
			return fmt.Errorf("process %d is still the CAS", hung)
		}
		return s.casAnswers()
	})
	if events := s.Operator.MustRun("events"); !strings.Contains(events, "cas_hangs") {
		t.Errorf("nobody is told:\n%s", events)
	}
	s.untouched(t)
}

func (s *stage) casAnswers() error {
	if r := s.owner.Run("session", "read", "steady", "--wait", "1s"); r.Code != 0 {
		return fmt.Errorf("%s", r)
	}
	return nil
}

// takeCAS ends the CAS and keeps it from starting again, until back is called.
func (s *stage) takeCAS(t *testing.T) (back func()) {
	program := filepath.Join(s.Bin, "cupel-cas")
	if err := os.Rename(program, program+".away"); err != nil {
		t.Fatal(err)
	}
	s.Kill("cupel-cas", syscall.SIGKILL)
	return func() { _ = os.Rename(program+".away", program) }
}

// steps of a first deployment after whose end something happens; the first is
// its beginning.
var steps = []string{"", "images", "pull", "start", "attest", "health", "switch"}

// commandEnded: a person gives up at any moment. What was asked for goes on,
// and can be removed.
func (s *stage) commandEnded(t *testing.T) {
	for n, step := range steps {
		t.Run("after "+step, func(t *testing.T) {
			name := "command-" + strconv.Itoa(n)
			s.session(name, nil)
			r := s.deploy(t, name, nil, step, func(pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) })
			early := r.Code == -1 && step == ""         // before it listened to signals
			if r.Code != 0 && r.Code != 130 && !early { // 0: it may have been quicker
				t.Errorf("ended by SIGTERM: %s", r)
			}
			if r.Code == 130 && !strings.Contains(r.Stderr, "cupel rm --state "+s.State+" --app "+name) {
				t.Errorf("nothing tells how to go on: %s", r)
			}
			if r := s.owner.Run("ps", name); r.Code == 3 {
				s.untouched(t) // it ended before it asked for anything
				return
			}
			s.removed(t, name)
		})
	}
}

// daemonEnded: the operator's daemon goes, politely or not, and comes back: the
// deployment goes on where it was.
func (s *stage) daemonEnded(t *testing.T) {
	for n, step := range steps[1:] {
		signal := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[n%2]
		t.Run(fmt.Sprintf("after %s by signal %d", step, signal), func(t *testing.T) {
			name := "daemon-" + strconv.Itoa(n)
			s.session(name, nil)
			r := s.deploy(t, name, nil, step, func(int) {
				s.Kill("cupeld", signal)
				s.Up(nil, nil)
			})
			if r.Code != 0 {
				t.Errorf("the deployment does not go on: %s", r)
			}
			if err := s.owner.ExpectHealthy(name, 2); err != nil {
				t.Error(err)
			}
			s.removed(t, name)
		})
	}
	t.Run("while an app is removed", func(t *testing.T) {
		s.session("removing", nil)
		s.owner.MustRun(s.deployArgs("removing")...)
		done := make(chan harness.Result, 1)
		go func() { done <- s.owner.Run("rm", "--app", "removing") }()
		time.Sleep(100 * time.Millisecond)
		s.Kill("cupeld", syscall.SIGKILL)
		s.Up(nil, nil)
		<-done // it may have met no manager
		s.Eventually(30*time.Second, func() error {
			if r := s.owner.Run("ps", "removing"); r.Code != 3 {
				return fmt.Errorf("the app is still there: %s", r)
			}
			return nil
		})
		s.untouched(t)
	})
}

// nothingRuns: no manager, and with it no registry, which can't come back to its
// port either at first.
func (s *stage) nothingRuns(t *testing.T) {
	registry := s.Info().Registry
	s.Operator.MustRun("down")
	want(t, s.owner.Run(s.deployArgs("steady", "--wait", "1s")...), "cas_unreachable", 7)
	want(t, s.owner.Run("ps"), "manager", 7, "cupel up")
	ln, err := net.Listen("tcp", registry)
	if err != nil {
		t.Fatal(err)
	}
	want(t, s.TryUp(), "port_taken", 4, registry, "--registry-listen")
	_ = ln.Close()
	s.Up(nil, nil)
	s.Eventually(30*time.Second, func() error { return s.owner.ExpectHealthy("steady", 1) })
	s.owner.MustRun("audit", "verify")
}

// deploy deploys two instances and calls act with the process as soon as a step
// ended ("": when the command began).
func (s *stage) deploy(t *testing.T, session string, flags []string, after string, act func(pid int)) harness.Result {
	t.Helper()
	args := append(s.deployArgs(session, "-o", "json"), flags...)
	acted := after == ""
	r := s.owner.Watch(args, func(pid int, line string) {
		var l struct {
			Step, State string
		}
		if line != "" && json.Unmarshal([]byte(line), &l) != nil {
			return
		}
		if line == "" && after == "" || !acted && l.Step == after && l.State == "done" {
			acted = true
			act(pid)
		}
	})
	if !acted {
		t.Errorf("step %q never ended: %s", after, r)
	}
	return r
}
