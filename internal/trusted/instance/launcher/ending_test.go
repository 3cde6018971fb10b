package launcher

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestWhatIsKept holds every way in which an app can end against the rule: its
// first process and its own stop signal decide, and nothing of it may have had to
// be killed.
func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	const write = `echo begin > /home/app/data/f; `
	const wait = `echo ready; while :; do sleep 0.05; done`
	cases := map[string]struct {
		script string
		job    bool
		stop   string   // the session's
		send   []string // to the launcher, once the app is ready
		code   int
		kept   bool
		says   string // on the standard error and to the node, where nothing is kept
	}{
		"a job that ends with 0":                  {script: write + "exit 0", job: true, code: 0, kept: true},
		"a job that fails":                        {script: write + "exit 5", job: true, code: 5, says: "ended with code 5"},
		"a job that is stopped":                   {script: write + wait, job: true, send: []string{"TERM"}, code: 143, says: "the job was stopped"},
		"a job that ends with 0 when stopped":     {script: write + "trap 'exit 0' TERM; " + wait, job: true, send: []string{"TERM"}, code: 0, kept: true},
		"a job that says 143 by itself":           {script: write + "exit 143", job: true, code: 143, says: "ended with code 143"},
		"USR1 to a job that is at work":           {script: write + wait, job: true, send: []string{"USR1"}, code: 138, says: "ended with code 138"},
		"USR1 to a service that is at work":       {script: write + wait, send: []string{"USR1"}, code: 138, says: "ended with code 138"},
		"HUP to a service that is at work":        {script: write + wait, send: []string{"HUP"}, code: 129, says: "ended with code 129"},
		"HUP to a service that goes on":           {script: write + "trap 'echo again >> /home/app/data/f' HUP; " + wait, send: []string{"HUP", "TERM"}, code: 143, kept: true},
		"a service that its stop signal ends":     {script: write + wait, send: []string{"TERM"}, code: 143, kept: true},
		"Ctrl-C becomes the stop signal":          {script: write + wait, send: []string{"INT"}, code: 143, kept: true},
		"a service that returns 143 when stopped": {script: write + "trap 'exit 143' TERM; " + wait, send: []string{"TERM"}, code: 143, kept: true},
		"a service that fails when stopped":       {script: write + "trap 'exit 1' TERM; " + wait, send: []string{"TERM"}, code: 1, says: "ended with code 1"},
		"another signal kills it when stopped":    {script: write + "trap 'kill -9 $$' TERM; " + wait, send: []string{"TERM"}, code: 137, says: "ended with code 137"},
		"a service that ends with 0":              {script: write + "exit 0", code: 0, kept: true},
		"a service that kills itself":             {script: write + "kill -15 $$", code: 143, says: "ended with code 143"},
		"a stop signal of its own":                {script: write + "trap 'echo term' TERM; trap 'echo quit; exit 0' QUIT; " + wait, stop: "SIGQUIT", send: []string{"TERM"}, code: 0, kept: true},
		"a stop signal of its own sent as itself": {script: write + wait, stop: "SIGUSR1", send: []string{"USR1"}, code: 138, says: "ended with code 138"},
		"it ignores its stop signal":              {script: write + "trap '' TERM; " + wait, send: []string{"TERM"}, code: 137, says: "was killed"},
		"a worker that ignores it":                {script: write + "(trap '' TERM; while :; do sleep 0.05; done) & trap 'exit 0' TERM; " + wait, send: []string{"TERM"}, code: exitRefused, says: "was killed"},
		"a worker that outlives it and ends":      {script: write + `(trap 'echo end >> /home/app/data/f; exit 0' TERM; while :; do sleep 0.05; done) & ` + wait, send: []string{"TERM"}, code: 143, kept: true},
		"a job that leaves one who ends":          {script: write + "(sleep 60 &) ; exit 0", job: true, code: 0, kept: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t)
			s.addVolume(owners.ReadWrite)
			s.cas.reply.Job, s.cas.reply.StopSignal = c.job, c.stop
			s.host.grace = 2 * time.Second
			s.command(c.script)
			wait := s.start()
			if len(c.send) > 0 {
				s.says(saysReady)
			}
			for _, sig := range c.send {
				s.signal(sig)
				time.Sleep(200 * time.Millisecond) // the shell runs its trap
			}

			if code := wait(); code != c.code || (len(s.cas.tags) == 1) != c.kept {
				t.Errorf("exit code %d, want %d; tags %v, want kept %v\n%s", code, c.code, s.cas.tags, c.kept, &s.errs)
			}
			if c.kept {
				return
			}
			last := s.host.last
			if last.Problem == nil || last.Problem.Rule != wire.RuleNotCommitted || !strings.Contains(last.Problem.Actual, c.says) {
				t.Errorf("the node was told %+v", last)
			}
			if len(s.cas.exits) != 1 || s.cas.exits[0].Code == 0 || s.cas.exits[0].Reason != string(wire.RuleNotCommitted) {
				t.Errorf("the CAS was told %+v", s.cas.exits)
			}
			if !strings.Contains(s.errs.String(), "cupel-init: not_committed: ") || !strings.Contains(s.errs.String(), c.says) {
				t.Errorf("people were told: %s", &s.errs)
			}
		})
	}
}

// TestStopSignalGoesToTheFirstProcess: a worker that would end at once upon the
// signal is left alone until its parent, which knows how to end it, has ended.
func TestStopSignalGoesToTheFirstProcess(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.command(`(trap 'echo worker told; exit 0' TERM; while :; do sleep 0.05; done) &
		trap 'sleep 1; kill -0 $! && echo worker untouched; exit 0' TERM; echo ready; while :; do sleep 0.05; done`)
	wait := s.start()
	s.says(saysReady)
	s.signal("TERM")
	if code := wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, &s.errs)
	}
	out := s.out.String()
	if left := strings.Index(out, "worker untouched"); left < 0 || strings.Index(out, "worker told") < left {
		t.Errorf("the app printed %s", out)
	}
}

// TestWrappedApp: an app behind a shell script, which dies of the signal that it
// doesn't hand on, still writes down what it has.
func TestWrappedApp(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.addVolume(owners.ReadWrite)
	s.cas.reply.Files = []wire.File{
		{Path: "/srv/wrapper", Mode: 0o755, Content: []byte("#!/bin/sh\n/srv/app\n")},
		{Path: "/srv/app", Mode: 0o755, Content: []byte(`#!/bin/sh
echo BEGIN > /home/app/data/state
trap 'sleep 1; echo END >> /home/app/data/state; exit 0' TERM
echo ready
while :; do sleep 0.05; done
`)},
	}
	s.cas.reply.Argv = []string{"/srv/wrapper"}
	wait := s.start()
	s.says(saysReady)
	s.signal("TERM")
	if code := wait(); code != 143 || len(s.cas.tags) != 1 {
		t.Fatalf("exit code %d, tags %v: %s", code, s.cas.tags, &s.errs)
	}

	next := s.next(owners.ReadOnly)
	next.command("cat /home/app/data/state")
	next.run(0)
	next.wantOut("BEGIN", "END")
}

// TestStopBeforeTheAppRuns: a signal that comes while stage 2 is on its way waits
// for the app.
func TestStopBeforeTheAppRuns(t *testing.T) {
	s := &signals{asked: make(chan struct{}), pid: 1 << 22, stop: syscall.SIGTERM}
	s.deliver(syscall.SIGINT)
	s.deliver(syscall.SIGTERM)
	s.deliver(syscall.SIGUSR1)
	<-s.asked
	if len(s.waiting) != 2 || s.waiting[0] != syscall.SIGTERM || s.waiting[1] != syscall.SIGUSR1 {
		t.Errorf("waiting %v", s.waiting)
	}
	if !s.hold() {
		t.Error("it was not asked to end")
	}
}

func TestUnknownSignalIsRefused(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.cas.reply.StopSignal = "SIGKILL"
	s.command("echo never")
	s.refused(exitRefused, "release_content")
}
