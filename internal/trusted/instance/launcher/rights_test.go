package launcher

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

const stopsWhenTold = `echo begin > /home/app/data/f; echo ready; while :; do sleep 0.05; done`

// TestRefusedGrants: what waiting can't mend ends at once, in the CAS's words.
func TestRefusedGrants(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"grant_missing", "grant_other", "grant_ended", "grant_used"} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t)
			s.cas.refuse = problem.New(problem.Denied, problem.Rule(rule), "words of the CAS").Fix("mend of the CAS")
			s.refused(exitRefused, problem.Rule(rule))
			last := s.host.last.Problem
			if s.cas.releases != 1 || last.Actual != "words of the CAS" || last.Mend != "mend of the CAS" {
				t.Errorf("asked %d times, told %v", s.cas.releases, last)
			}
		})
	}
}

// TestWaitsForAPlace: what others hold is waited for, and what it is can be seen
// meanwhile.
func TestWaitsForAPlace(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.grant("cupelgrant1.token")
	s.cas.again = func(n int, _ *wire.ReleaseReply) error {
		switch n {
		case 1:
			return problem.New(problem.Unavailable, "grant_full", "all places are taken")
		case 2, 3:
			return problem.New(problem.Unavailable, "lease_held", "another has it")
		}
		return nil
	}
	s.run(0)
	var rules []string
	for _, st := range s.host.said {
		if st.Phase == wire.Attesting && st.Problem != nil {
			rules = append(rules, string(st.Problem.Rule))
		}
	}
	if strings.Join(rules, " ") != "grant_full lease_held" {
		t.Errorf("the node was told %v", rules)
	}
	for _, g := range s.cas.grants {
		if g != "cupelgrant1.token" {
			t.Errorf("the CAS was shown %q", g)
		}
	}
	if strings.Contains(s.errs.String(), "cupelgrant1") {
		t.Errorf("the token was printed: %s", &s.errs)
	}
}

// TestLapsedInstanceComesBack: it attests anew, under the same key and grant, and
// what it wrote is kept.
func TestLapsedInstanceComesBack(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.addVolume(owners.ReadWrite)
	s.grant("cupelgrant1.token")
	lapsed := true
	s.cas.kept = func(int) (wire.KeepAliveReply, error) {
		if lapsed {
			return wire.KeepAliveReply{}, problem.New(problem.Denied, "instance_lapsed", "silent")
		}
		return wire.KeepAliveReply{Version: wire.ReleaseVersion, KeepAliveSeconds: 1}, nil
	}
	s.cas.again = func(n int, _ *wire.ReleaseReply) error { lapsed = n < 2; return nil }
	s.command(stopsWhenTold)
	wait := s.start()
	s.says(saysReady)
	s.errsSay("attested again: this instance has its rights back")
	s.signal("TERM")
	if code := wait(); code != 143 || len(s.cas.tags) != 1 {
		t.Errorf("exit code %d, tags %v: %s", code, s.cas.tags, &s.errs)
	}
	if s.cas.releases != 2 || s.cas.grants[1] != "cupelgrant1.token" || !slices.Equal(s.cas.returning, []bool{false, true}) {
		t.Errorf("%d releases, under %v", s.cas.releases, s.cas.grants)
	}
}

// TestRightsThatEnd: the app is told to end, gets its grace, and nothing that it
// wrote is kept.
func TestRightsThatEnd(t *testing.T) {
	t.Parallel()
	denied := func(rule problem.Rule) func(int) (wire.KeepAliveReply, error) {
		return func(int) (wire.KeepAliveReply, error) {
			return wire.KeepAliveReply{}, problem.New(problem.Denied, rule, "words of the CAS")
		}
	}
	cases := map[string]struct {
		kept  func(int) (wire.KeepAliveReply, error)
		again func(reply *wire.ReleaseReply) error
		rule  string
	}{
		"withdrawn": {kept: denied("instance_withdrawn"), rule: "grant_ended"},
		"gone":      {kept: denied("instance_gone"), rule: "grant_ended"},
		"forgotten": {kept: denied("instance_unknown"), rule: "instance_unknown"},
		"forgotten while it was away": {denied("instance_lapsed"), func(*wire.ReleaseReply) error {
			return problem.New(problem.Unauthenticated, "instance_unknown", "words of the CAS")
		}, "instance_unknown"},
		"the grant ended while it was away": {denied("instance_lapsed"), func(*wire.ReleaseReply) error {
			return problem.New(problem.Denied, "grant_ended", "words of the CAS")
		}, "grant_ended"},
		"the session was removed while it was away": {denied("instance_lapsed"), func(*wire.ReleaseReply) error {
			return problem.New(problem.NotFound, "session_unknown", "words of the CAS")
		}, "grant_ended"},
		"another wrote meanwhile": {denied("instance_lapsed"), func(*wire.ReleaseReply) error {
			return problem.New(problem.Denied, "lease_ended", "words of the CAS")
		}, "lease_ended"},
		"another writes": {denied("instance_lapsed"), func(*wire.ReleaseReply) error {
			return problem.New(problem.Unavailable, "lease_held", "words of the CAS")
		}, "lease_ended"},
		"another lease": {denied("instance_lapsed"), func(r *wire.ReleaseReply) error {
			v := r.Volumes[0]
			v.Lease++
			r.Volumes = []wire.Volume{v}
			return nil
		}, "lease_ended"},
		"no right to write any more": {denied("instance_lapsed"), func(r *wire.ReleaseReply) error {
			v := r.Volumes[0]
			v.Access = owners.ReadOnly
			r.Volumes = []wire.Volume{v}
			return nil
		}, "lease_ended"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t)
			s.addVolume(owners.ReadWrite)
			s.cas.again = func(n int, reply *wire.ReleaseReply) error {
				if n == 1 || c.again == nil {
					return nil
				}
				return c.again(reply)
			}
			s.command(`trap 'echo told; exit 0' TERM; ` + stopsWhenTold)
			wait := s.start()
			s.says(saysReady)
			s.onCAS(func(f *fakeCAS) { f.kept = c.kept })
			if code := wait(); code != exitRefused {
				t.Errorf("exit code %d: %s", code, &s.errs)
			}
			s.wantOut("told")
			last := s.host.last
			if last.Phase != wire.Refused || last.Problem == nil || string(last.Problem.Rule) != c.rule {
				t.Errorf("the node was told %+v", last)
			}
			if len(s.cas.tags) != 0 || len(s.host.stored) != 0 || len(s.cas.exits) != 0 {
				t.Errorf("tags %v, exits %v", s.cas.tags, s.cas.exits)
			}
		})
	}
}

// TestRightsEndBeforeTheAppRuns: then it never does.
func TestRightsEndBeforeTheAppRuns(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.addVolume(owners.ReadOnly)
	s.cas.reply.Volumes[0].Generation = 1
	s.host.refuseGet = problem.New(problem.Unavailable, "busy", "later")
	s.cas.kept = func(int) (wire.KeepAliveReply, error) {
		return wire.KeepAliveReply{}, problem.New(problem.Denied, "instance_withdrawn", "words of the CAS")
	}
	s.command("echo never")
	s.refused(exitRefused, problem.RuleGrantEnded)
}

// TestRevokedAppGoesOn: a session update that excludes it is told of once; that
// its grant is withdrawn later still reaches it.
func TestRevokedAppGoesOn(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.command(`echo ready; while :; do sleep 0.05; done`)
	s.cas.kept = func(int) (wire.KeepAliveReply, error) {
		return wire.KeepAliveReply{}, problem.New(problem.Denied, "instance_revoked", "words of the CAS")
	}
	wait := s.start()
	s.says(saysReady)
	s.until("asked three times", func(c *fakeCAS) bool { return c.keepAlives >= 3 })
	if n := strings.Count(s.errs.String(), "instance_revoked"); n != 1 || s.host.last.Phase != wire.Running {
		t.Errorf("told %d times, %+v: %s", n, s.host.last, &s.errs)
	}
	s.onCAS(func(c *fakeCAS) {
		c.kept = func(int) (wire.KeepAliveReply, error) {
			return wire.KeepAliveReply{}, problem.New(problem.Denied, "instance_withdrawn", "words of the CAS")
		}
	})
	if code := wait(); code != exitRefused || s.host.last.Problem.Rule != problem.RuleGrantEnded {
		t.Errorf("exit code %d, %+v", code, s.host.last)
	}
}

// TestOffline: without a word of the CAS the app goes on, or ends where the
// session says so.
func TestOffline(t *testing.T) {
	t.Parallel()
	for name, seconds := range map[string]int{"goes on": 0, "ends": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t)
			s.addVolume(owners.ReadWrite)
			s.cas.reply.OfflineSeconds = seconds
			s.command(`trap 'echo told; exit 0' TERM; ` + stopsWhenTold)
			wait := s.start()
			s.says(saysReady)
			s.onCAS(func(c *fakeCAS) { c.silent = true })
			if seconds == 0 {
				s.errsSay("keep-alive: cas_unreachable")
				time.Sleep(3 * time.Second)
				s.onCAS(func(c *fakeCAS) { c.silent = false })
				s.errsSay("the CAS is back")
				s.signal("TERM")
				if code := wait(); code != 0 || len(s.cas.tags) != 1 {
					t.Errorf("exit code %d, tags %v: %s", code, s.cas.tags, &s.errs)
				}
				return
			}
			if code := wait(); code != exitRefused || s.host.last.Problem == nil || s.host.last.Problem.Rule != RuleOffline {
				t.Errorf("exit code %d, %+v: %s", code, s.host.last, &s.errs)
			}
			s.wantOut("told")
			if len(s.cas.tags) != 0 || len(s.host.stored) != 0 {
				t.Error("it was committed")
			}
		})
	}
}

// dueOnce makes the CAS say that a certificate is due until the instance attested
// again; the second release has other files.
func (s *sandbox) dueOnce(files []wire.File) {
	s.cas.reply.CertificateUntil = 1000
	due := false
	s.cas.kept = func(int) (wire.KeepAliveReply, error) {
		return wire.KeepAliveReply{Version: wire.ReleaseVersion, KeepAliveSeconds: 1, CertificateDue: due}, nil
	}
	s.cas.again = func(n int, reply *wire.ReleaseReply) error {
		if due = n < 2; !due {
			reply.Files, reply.CertificateUntil = files, 2000
		}
		return nil
	}
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]string{"told": "SIGHUP", "not told": "", "reads it anew": wire.NoSignal} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t)
			s.addVolume(owners.ReadWrite)
			s.cas.reply.OnRenewal = signal
			s.cas.reply.Files = []wire.File{
				{Path: "/run/cupel/tls/cert.pem", Mode: 0o440, Content: []byte("old certificate\n"), Certificate: true},
				{Path: "/via/key.pem", Mode: 0o400, Content: []byte("old key\n"), Certificate: true}, // the image's link
				{Path: "/home/app/data/in-volume", Mode: 0o400, Content: []byte("old\n"), Certificate: true},
				{Path: "/etc/app.conf", Mode: 0o644, Content: []byte("as it was\n")},
			}
			s.link("srv", "via")
			s.dueOnce([]wire.File{
				{Path: "/run/cupel/tls/cert.pem", Mode: 0o440, Content: []byte("new certificate\n"), Certificate: true},
				{Path: "/via/key.pem", Mode: 0o400, Content: []byte("new key\n"), Certificate: true},
				{Path: "/home/app/data/in-volume", Mode: 0o400, Content: bytes.Repeat([]byte("new\n"), 50000), Certificate: true},
				{Path: "/etc/app.conf", Mode: 0o644, Content: []byte("of another version\n")},
			})
			s.command(`trap 'echo told' HUP; exec 5< /run/cupel/tls/cert.pem; echo changed >> /etc/app.conf; echo ready
				while grep -q old /srv/key.pem; do sleep 0.05; done; sleep 0.2
				cat /run/cupel/tls/cert.pem /srv/key.pem; tail -n 1 /home/app/data/in-volume; cat <&5
				stat -c '%n %a %u:%g' /run/cupel/tls/cert.pem /srv/key.pem /home/app/data/in-volume
				ls -A /run/cupel/tls | wc -l; cat /etc/app.conf`)
			s.run(0)

			s.wantOut("new certificate", "new key", "new", "old certificate", "changed",
				"/run/cupel/tls/cert.pem 440 1500:1600", "/srv/key.pem 400 1500:1600", "/home/app/data/in-volume 400 1500:1600", "1")
			if told := strings.Contains(s.out.String(), "told\n"); told != (signal == "SIGHUP") {
				t.Errorf("told %v:\n%s", told, &s.out)
			}
			until := map[string]int64{"SIGHUP": 2000, "": 1000, wire.NoSignal: 1000}[signal]
			if got := s.host.last.CertificateUntil; got != until {
				t.Errorf("the node knows of a certificate until %d, want %d", got, until)
			}
		})
	}
}

// TestRenewalFollowsNoLinkOfTheApp: where the app has put a link in the way,
// nothing is written, and it is said.
func TestRenewalFollowsNoLinkOfTheApp(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.cas.reply.Files = []wire.File{{Path: "/run/cupel/tls/key.pem", Mode: 0o400, Content: []byte("old\n"), Certificate: true}}
	s.dueOnce([]wire.File{{Path: "/run/cupel/tls/key.pem", Mode: 0o400, Content: []byte("new\n"), Certificate: true}})
	s.command(`mkdir /run/cupel/elsewhere; mv /run/cupel/tls /run/cupel/before; ln -s /run/cupel/elsewhere /run/cupel/tls; echo ready
		trap 'ls -A /run/cupel/elsewhere /run/cupel/before; cat /run/cupel/before/key.pem; exit 0' TERM; while :; do sleep 0.05; done`)
	wait := s.start()
	s.says(saysReady)
	s.errsSay("renewal: put the renewed files into the app's root: /run/cupel/tls/key.pem")
	s.signal("TERM")
	if code := wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, &s.errs)
	}
	if out := s.out.String(); out != "ready\n/run/cupel/before:\nkey.pem\n\n/run/cupel/elsewhere:\nold\n" {
		t.Errorf("the app found %q", out)
	}
}

// TestNoRenewalOfWhatCannotChange: a certificate that is in the environment too
// stays what the node knows of.
func TestNoRenewalOfWhatCannotChange(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.cas.reply.OnRenewal = "SIGHUP"
	s.cas.reply.Env = []string{"CERT=old"}
	s.dueOnce([]wire.File{{Path: "/srv/c", Mode: 0o400, Content: []byte("new\n"), Certificate: true}})
	inner := s.cas.again
	s.cas.again = func(n int, reply *wire.ReleaseReply) error {
		if n > 1 {
			reply.Env = []string{"CERT=new"}
		}
		return inner(n, reply)
	}
	s.cas.reply.Files = []wire.File{{Path: "/srv/c", Mode: 0o400, Content: []byte("old\n"), Certificate: true}}
	s.command(`trap 'echo told' HUP; while grep -q old /srv/c; do sleep 0.05; done; sleep 0.3; echo "$CERT"`)
	s.run(0)
	s.wantOut("told", "old")
	if got := s.host.last.CertificateUntil; got != 1000 {
		t.Errorf("the node knows of a certificate until %d", got)
	}
}

// TestRefusedAttestationIsSpaced: where the CAS takes back no lapsed instance, the
// app goes on, people are told once, and the CAS is not asked to verify each time.
func TestRefusedAttestationIsSpaced(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.command(`echo ready; while :; do sleep 0.05; done`)
	s.cas.kept = func(int) (wire.KeepAliveReply, error) {
		return wire.KeepAliveReply{}, problem.New(problem.Denied, "instance_lapsed", "silent")
	}
	s.cas.again = func(n int, _ *wire.ReleaseReply) error {
		if n == 1 {
			return nil
		}
		return problem.New(problem.Denied, "measurement", "words of the CAS")
	}
	wait := s.start()
	s.says(saysReady)
	s.until("asked six times", func(c *fakeCAS) bool { return c.keepAlives >= 6 })
	s.signal("TERM")
	if code := wait(); code != 143 {
		t.Errorf("exit code %d: %s", code, &s.errs)
	}
	if s.cas.releases >= s.cas.keepAlives || s.cas.releases < 2 {
		t.Errorf("%d attestations for %d reports", s.cas.releases, s.cas.keepAlives)
	}
	if n := strings.Count(s.errs.String(), "the CAS ended this instance's rights; the app goes on"); n != 1 {
		t.Errorf("told %d times: %s", n, &s.errs)
	}
}
