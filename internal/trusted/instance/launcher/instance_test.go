package launcher

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// These tests run the real, static launcher under runc and the launch profile.

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// wantOut checks that lines are in the app's output.
func (s *sandbox) wantOut(lines ...string) {
	s.t.Helper()
	got := strings.Split(s.out.String(), "\n")
	for _, want := range lines {
		if !slices.Contains(got, want) {
			s.t.Errorf("no line %q in the app's output:\n%s", want, &s.out)
		}
	}
}

func TestInstanceRuns(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.cas.reply.Env = []string{"SECRET=from session", "FROM_IMAGE=overridden"}
	s.cas.reply.Cwd = "/home/app"
	s.cas.reply.Files = []wire.File{
		{Path: "/run/cupel/tls/key.pem", Mode: 0o400, Content: []byte("a key\n")},
		{Path: "/etc/app.conf", Mode: 0o644, Content: []byte("conf\n")},
		{Path: "/etc/hosts.allow", Mode: 0o640, Content: nil},
		{Path: "/srv/large", Mode: 0o600, Content: make([]byte, 1<<20)}, // more than a pipe holds
	}
	s.command(`id; pwd; echo "env $SECRET|$FROM_IMAGE|$HOME|$PATH"; stat -c '%n %a %u:%g' /run/cupel/tls/key.pem /etc/app.conf
		wc -c < /srv/large; cat /run/cupel/tls/key.pem; cat /etc/hosts /etc/resolv.conf; touch /tmp/x || echo "tmp closed"; exit 3`)
	s.run(3)
	s.wantOut(
		"uid=1500(app) gid=1600(app) groups=1600(app),1700(extra)", "/home/app",
		"env from session|overridden|/home/app|/bin:/usr/bin",
		"/run/cupel/tls/key.pem 400 1500:1600", "/etc/app.conf 644 1500:1600", "a key", "1048576",
		"127.0.0.1 localhost", "nameserver 127.0.0.1",
	)
	if d := cmp.Diff([]wire.Exit{{Version: wire.ReleaseVersion, Code: 3}}, s.cas.exits); d != "" {
		t.Error(d)
	}
	want := []wire.Phase{wire.Starting, wire.Attesting, wire.Attested, wire.Mounting, wire.Running, wire.Exited}
	if d := cmp.Diff(want, s.host.phases); d != "" {
		t.Error(d)
	}
	if s.host.last.Code != 3 || s.host.last.InstanceID.IsZero() {
		t.Errorf("status %+v", s.host.last)
	}
	if strings.Contains(s.errs.String(), "from session") || strings.Contains(s.errs.String(), "a key") {
		t.Errorf("a secret in the diagnostics: %s", &s.errs)
	}
}

func TestInstanceRunsTheImagesCommand(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.run(0)
	s.wantOut("default command")
}

func TestAppWritesIntoMemoryOnly(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.img.User = "0"
	s.command(`echo new > /etc/passwd && rm -r /tmp && mkdir -p /srv/deep && cp /bin/busybox /srv/deep/ && /srv/deep/busybox echo ran`)
	s.run(0)
	s.wantOut("ran")
	for _, name := range []string{"srv", "tmp/x"} {
		if _, err := os.Stat(filepath.Join(s.rootfs, name)); err == nil {
			t.Errorf("%s reached the host's disk", name)
		}
	}
	if b, err := os.ReadFile(filepath.Join(s.rootfs, "etc/passwd")); err != nil || !strings.HasPrefix(string(b), "root:") {
		t.Errorf("the image was changed: %s %v", b, err)
	}
}

// TestHostileApp plays app code that tries to get at what the launcher keeps:
// sockets, memory, descriptors, privileges. With the image's user and as root.
func TestHostileApp(t *testing.T) {
	t.Parallel()
	script := `
ls -A /run/cupel 2>&1; echo "socket dir: $(ls -A /run/cupel 2>/dev/null | wc -l)"
find / -xdev \( -name las.sock -o -name node.sock \) 2>/dev/null | sed 's/^/FOUND socket /'
ls -A /dev/.cupel 2>/dev/null | sed 's/^/FOUND staging /'
cat /proc/1/environ 2>/dev/null && echo FOUND environ
for f in 0 1 2 3 4 5 6 7 8 9 10 11; do readlink /proc/1/fd/$f 2>/dev/null | sed 's/^/FOUND fd /'; head -c1 /proc/1/fd/$f </dev/null 2>/dev/null && echo FOUND open fd; done
readlink /proc/1/exe /proc/1/cwd 2>/dev/null | sed 's/^/FOUND link /'
ls /proc/1/root/ 2>/dev/null | sed 's/^/FOUND root /'
head -c 1 /proc/1/mem 2>/dev/null && echo FOUND mem
cat /proc/1/maps 2>/dev/null | sed 's/^/FOUND maps /'
for f in /proc/self/fd/*; do case ${f##*/} in 0|1|2) ;; *) readlink $f | grep -v "/proc/" | sed 's/^/FOUND own fd /';; esac; done
grep -E 'las.sock|/run/cupel| /dev/.cupel' /proc/self/mountinfo | sed 's/^/FOUND mount /'
mount -t tmpfs x /tmp 2>/dev/null && echo FOUND mount right
unshare -U true 2>/dev/null && echo FOUND user namespace
unshare -m true 2>/dev/null && echo FOUND mount namespace
chroot / true 2>/dev/null && echo FOUND chroot
echo core > /proc/sys/kernel/core_pattern 2>/dev/null && echo FOUND sysctl
kill -9 1; kill -STOP 1
grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status
echo "cores $(ulimit -c)"
ps 2>/dev/null | grep -v ps | wc -l >/dev/null
echo done`
	for _, user := range []string{"app", "0"} {
		t.Run(user, func(t *testing.T) {
			s := newSandbox(t)
			s.img.User = user
			s.command(script)
			s.run(0)
			if strings.Contains(s.out.String(), "FOUND") {
				t.Errorf("the app got something:\n%s", &s.out)
			}
			const none = "0000000000000000"
			s.wantOut("CapInh:\t"+none, "CapPrm:\t"+none, "CapEff:\t"+none, "CapBnd:\t"+none, "CapAmb:\t"+none,
				"NoNewPrivs:\t1", "Seccomp:\t2", "socket dir: 0", "cores 0", "done")
		})
	}
}

func TestUnexpectedMounts(t *testing.T) {
	t.Parallel()
	git := filepath.Join(t.TempDir(), "git")
	must(t, os.WriteFile(git, []byte("#!/bin/sh\n"), 0o755))
	bind := func(to string, options ...any) map[string]any {
		return map[string]any{"destination": to, "type": "bind", "source": git, "options": append([]any{"bind", "ro"}, options...)}
	}
	cases := map[string]map[string]any{
		"over a program":  bind("/usr/bin/git"),
		"preload":         bind("/etc/ld.so.preload"),
		"over the users":  bind("/etc/passwd"),
		"tmpfs over home": {"destination": "/home/app", "type": "tmpfs", "source": "tmpfs", "options": []any{"nosuid"}},
		"hosts again":     bind("/etc/hosts"),
		"under cupel":     {"destination": "/dev/extra", "type": "tmpfs", "source": "tmpfs"},
		"writable resolv": {"destination": "/etc/resolv.conf", "type": "bind", "source": git, "options": []any{"bind", "rw"}},
	}
	for name, mount := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.mounts = append(s.mounts, mount)
			s.command("echo never")
			s.refused(exitRefused, "unexpected_mount")
			if s.cas.releases != 0 {
				t.Error("the CAS was asked all the same")
			}
		})
	}
}

func TestUnexpectedEnvironment(t *testing.T) {
	t.Parallel()
	for _, e := range []string{"LD_PRELOAD=/evil.so", "GIT_SSL_NO_VERIFY=1", "PATH=/evil", "https_proxy=http://evil"} {
		t.Run(e, func(t *testing.T) {
			s := newSandbox(t)
			s.env = append(s.env, e)
			s.command("echo never")
			s.run(exitRefused)
			if !strings.Contains(s.errs.String(), "host_environment") || s.cas.releases != 0 {
				t.Errorf("%d releases, %s", s.cas.releases, &s.errs)
			}
		})
	}
}

func TestSconeAliases(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	for i, e := range s.env[:3] { // the grant has none
		s.env[i] = "SCONE_" + strings.TrimPrefix(e, "CUPEL_")
	}
	s.run(0)
	s.wantOut("default command")
}

func TestRogueCAS(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	rogue := newFakeCAS(t)
	l := s.net.listen(t, "127.0.0.1:0")
	rogue.serve(l)
	s.env[0] = "CUPEL_CAS_ADDR=" + l.Addr().String()
	s.refused(exitRefused, "launch_binding")
	if rogue.releases != 0 {
		t.Error("the rogue CAS got a request")
	}
}

func TestAnotherSession(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.host.configID = evidence.Data64{1}
	s.refused(exitRefused, "launch_binding")
}

func TestRefusedByTheCAS(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.cas.refuse = problem.New(problem.Denied, "measurement", "aa").Want("bb")
	s.refused(exitRefused, "measurement")
	if s.cas.releases != 1 {
		t.Errorf("asked %d times", s.cas.releases)
	}
}

func TestCASComesUpLater(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.cas.failFirst = 2
	s.run(0)
	if s.cas.releases != 3 {
		t.Errorf("asked %d times", s.cas.releases)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	cases := []struct {
		argv []string
		code int
		rule problem.Rule
	}{
		{[]string{"/no/such/file"}, 127, RuleNotFound},
		{[]string{"no-such-command"}, 127, RuleNotFound},
		{[]string{"/bin/bad-interpreter"}, 127, RuleNotFound},
		{[]string{"/etc/not-executable"}, 126, RuleNotExecutable},
		{[]string{"/etc"}, 126, RuleNotExecutable},
	}
	for _, c := range cases {
		t.Run(c.argv[0], func(t *testing.T) {
			s := newSandbox(t)
			s.addVolume(owners.ReadWrite)
			s.cas.reply.Argv = c.argv
			s.refused(c.code, c.rule)
			if len(s.cas.tags) != 0 || len(s.cas.exits) != 1 || s.cas.exits[0].Code != c.code {
				t.Errorf("tags %v, exits %v", s.cas.tags, s.cas.exits)
			}
		})
	}
}

// TestEmptyProgram: what a disk lost of the image is nothing that the app's repository could
// mend, and the other way round.
func TestEmptyProgram(t *testing.T) {
	t.Parallel()
	image := newSandbox(t)
	image.cas.reply.Argv = []string{"empty"}
	image.refused(126, RuleNotExecutable)
	first := newSandbox(t)
	first.addVolume(owners.ReadWrite)
	first.command(`: > /home/app/data/app.py; chmod +x /home/app/data/app.py`)
	first.run(0)
	repository := first.next(owners.ReadWrite)
	repository.cas.reply.Argv = []string{"/home/app/data/app.py"}
	repository.refused(126, RuleNotExecutable)
	for s, want := range map[*sandbox]string{
		image:      `"empty" can't be executed: the file is empty (0 bytes), and in the image, not in a volume (expected the file as it was when the image was built); the machine's disk lost its content, as after a power cut. The operator looks at the disk (dmesg) and has images unpacked anew: cupel down, remove STATE/containerd/root, cupel up`,
		repository: `"/home/app/data/app.py" can't be executed: the file is empty (0 bytes), and in a volume of the session's (expected a program, or a script that names its interpreter); put back what belongs there`,
	} {
		if got := s.errs.String(); !strings.Contains(got, want) {
			t.Errorf("%q; want %q", got, want)
		}
	}
}

func TestSignalsAndOrphans(t *testing.T) {
	t.Parallel()
	t.Run("handled", func(t *testing.T) {
		s := newSandbox(t)
		s.command(`trap 'echo got it; exit 9' TERM; (sleep 100 &); while true; do sleep 0.1; done`)
		wait := s.start()
		s.phase(wire.Running)
		time.Sleep(200 * time.Millisecond) // the shell sets its trap
		s.signal("TERM")
		if code := wait(); code != 9 {
			t.Errorf("exit code %d, %s", code, &s.errs)
		}
		s.wantOut("got it")
	})
	t.Run("default", func(t *testing.T) {
		s := newSandbox(t)
		s.cas.reply.Argv = []string{"sleep", "100"}
		wait := s.start()
		s.phase(wire.Running)
		s.signal("TERM")
		if code := wait(); code != 128+15 {
			t.Errorf("exit code %d, %s", code, &s.errs)
		}
	})
	t.Run("before the app", func(t *testing.T) {
		s := newSandbox(t)
		s.cas.failFirst = 1000
		wait := s.start()
		s.phase(wire.Attesting)
		s.signal("TERM")
		if code := wait(); code != 128+15 {
			t.Errorf("exit code %d, %s", code, &s.errs)
		}
		if s.host.last.Phase != wire.Exited {
			t.Errorf("status %+v", s.host.last)
		}
	})
	t.Run("a node that was down is told", func(t *testing.T) {
		s := newSandbox(t)
		s.command("sleep 30")
		s.host.deaf = true
		wait := s.start()
		hears := func() (wire.Status, bool) {
			s.host.mu.Lock()
			defer s.host.mu.Unlock()
			return s.host.last, s.host.last.Phase == wire.Running
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			s.cas.mu.Lock()
			alive := s.cas.keepAlives > 0 // released, and about to run
			s.cas.mu.Unlock()
			if alive {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("no keep-alive: %s", &s.errs)
			}
		}
		if got, ok := hears(); ok {
			t.Fatalf("heard %+v", got)
		}
		s.host.mu.Lock()
		s.host.deaf = false
		s.host.mu.Unlock()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if got, ok := hears(); ok {
				if got.InstanceID.IsZero() {
					t.Errorf("status %+v", got)
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the node was told %v", s.host.phases)
			}
		}
		s.signal("TERM")
		wait()
	})
	t.Run("keep-alives go on", func(t *testing.T) {
		s := newSandbox(t)
		s.command("sleep 60")
		wait := s.start()
		alive := func() int {
			s.cas.mu.Lock()
			defer s.cas.mu.Unlock()
			return s.cas.keepAlives
		}
		for deadline := time.Now().Add(30 * time.Second); alive() < 2; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d keep-alives: %s", alive(), &s.errs)
			}
		}
		s.signal("TERM")
		wait()
	})
}

// next makes another instance of the same service on the same storage, after
// the CAS took the last tag.
func (s *sandbox) next(access owners.Access) *sandbox {
	s.t.Helper()
	n := newSandbox(s.t)
	n.addVolume(access)
	if len(s.cas.reply.Volumes) > 1 {
		n.addSecondVolume(access)
	}
	n.host.stored = s.host.stored
	for i, last := range s.cas.tags[len(s.cas.tags)-1].Moves() {
		n.cas.reply.Volumes[i].Generation, n.cas.reply.Volumes[i].Tag = last.From+1, last.Tag
	}
	return n
}

func TestVolume(t *testing.T) {
	t.Parallel()
	first := newSandbox(t)
	first.addVolume(owners.ReadWrite)
	first.command(`stat -c '%u:%g' /home/app/data; echo precious > /home/app/data/f; ln -s f /home/app/data/l; mkdir /home/app/data/d`)
	first.run(0)
	first.wantOut("1500:1600")
	if len(first.cas.tags) != 1 || first.cas.tags[0].From != 0 || first.cas.tags[0].Lease != 7 {
		t.Fatalf("tags %+v", first.cas.tags)
	}
	for _, b := range first.host.stored {
		if bytes.Contains(b, []byte("precious")) {
			t.Error("plaintext at the node")
		}
	}

	replica := first.next(owners.ReadOnly)
	replica.command(`cat /home/app/data/l; echo more >> /home/app/data/f; cat /home/app/data/f | wc -l`)
	replica.run(0)
	replica.wantOut("precious", "2")
	if len(replica.cas.tags) != 0 {
		t.Error("a replica committed")
	}

	second := first.next(owners.ReadWrite)
	second.command(`echo second >> /home/app/data/f; sleep 100 & trap 'exit 0' TERM; wait`)
	wait := second.start()
	second.phase(wire.Running)
	time.Sleep(200 * time.Millisecond)
	second.signal("TERM")
	if code := wait(); code != 0 {
		t.Fatalf("exit code %d, %s", code, &second.errs)
	}
	if len(second.cas.tags) != 1 || second.cas.tags[0].From != 1 || second.cas.tags[0].FromTag != first.cas.tags[0].Tag {
		t.Fatalf("tags %+v", second.cas.tags)
	}
	third := second.next(owners.ReadOnly)
	third.command(`cat /home/app/data/f`)
	third.run(0)
	third.wantOut("precious", "second")
}

// TestNodeRestartsWhileMounting: an answer that breaks off is asked for again.
func TestNodeRestartsWhileMounting(t *testing.T) {
	t.Parallel()
	first := newSandbox(t)
	first.addVolume(owners.ReadWrite)
	first.command(`head -c 3000000 /dev/urandom > /home/app/data/f; echo whole > /home/app/data/g`)
	first.run(0)
	second := first.next(owners.ReadOnly)
	second.host.breakGets = 2
	second.command("cat /home/app/data/g")
	second.run(0)
	second.wantOut("whole")
}

func TestHostileStorage(t *testing.T) {
	t.Parallel()
	first := newSandbox(t)
	id := first.addVolume(owners.ReadWrite)
	first.command(`echo one > /home/app/data/f`)
	first.run(0)
	second := first.next(owners.ReadWrite)
	second.command(`echo two > /home/app/data/f`)
	second.run(0)
	one, two := id.String()+"@1", id.String()+"@2"
	stored := second.host.stored

	cases := map[string]struct {
		change func(b []byte) []byte
		rule   string
	}{
		"older":     {func([]byte) []byte { return stored[one] }, "volume_rolled_back"},
		"flipped":   {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "volume_tampered"},
		"truncated": {func(b []byte) []byte { return b[:len(b)-20] }, "volume_truncated"},
		"missing":   {func([]byte) []byte { return nil }, "volume_missing"},
		"swapped": {func(b []byte) []byte {
			b[20] ^= 1 // the id in the header
			return b
		}, "volume_swapped"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := second.next(owners.ReadOnly)
			s.host.stored = map[string][]byte{}
			if b := c.change(bytes.Clone(stored[two])); b != nil {
				s.host.stored[two] = b
			}
			s.command("echo never")
			s.refused(exitRefused, problem.Rule(c.rule))
			if s.out.Len() != 0 || len(s.cas.exits) != 1 || s.cas.exits[0].Reason != c.rule {
				t.Errorf("%s %v", &s.out, s.cas.exits)
			}
		})
	}
}

func TestVolumeTooLarge(t *testing.T) {
	t.Parallel()
	t.Run("before the commit", func(t *testing.T) {
		s := newSandbox(t)
		s.memory = 64 << 20
		s.addVolume(owners.ReadWrite)
		s.command(`dd if=/dev/zero of=/home/app/data/big bs=1M count=60 2>/dev/null || echo full`)
		s.refused(exitRefused, wire.RuleVolumeTooLarge)
		s.wantOut("full")
		if len(s.cas.tags) != 0 || len(s.host.stored) != 0 {
			t.Error("it was stored")
		}
	})
	t.Run("before the start", func(t *testing.T) {
		big := newSandbox(t)
		big.addVolume(owners.ReadWrite)
		big.command(`dd if=/dev/urandom of=/home/app/data/big bs=1M count=60`)
		big.run(0)
		small := big.next(owners.ReadOnly)
		small.memory = 64 << 20
		small.command("echo never")
		small.refused(exitRefused, wire.RuleVolumeTooLarge)
	})
}

// TestWhatIsWrittenCanBeStored: an app hears of a volume that is full while it
// writes, also of one that is full of small files; what was written is kept, and
// has room at the next start, beside that of another volume.
func TestWhatIsWrittenCanBeStored(t *testing.T) {
	t.Parallel()
	const fill = `i=0; while echo x > $d/$((i%100))-$i 2>/dev/null; do i=$((i+1)); mkdir $d/sub 2>/dev/null; done; rm -f $d/0-0 $d/$((i%100))-$i; echo stopped`
	s := newSandbox(t)
	s.memory = 64 << 20
	s.addVolume(owners.ReadWrite)
	s.addSecondVolume(owners.ReadWrite)
	s.command(`d=/home/app/data; ` + fill + `; ls $d | wc -l; head -c 60000000 /dev/urandom > /home/app/more/big; truncate -s 15M /home/app/more/big; truncate -s 150M /home/app/more/hole; i=0; while [ $i -lt 300 ]; do ln -s $(printf "%0200d" $i) /home/app/more/link$i; i=$((i+1)); done`)
	s.run(0)
	if !strings.HasPrefix(s.out.String(), "stopped\n") {
		t.Errorf("%s", &s.out)
	}
	if len(s.cas.tags) != 1 || len(s.cas.tags[0].Also) != 1 {
		t.Fatalf("tags %+v", s.cas.tags)
	}

	next := s.next(owners.ReadWrite)
	next.memory = s.memory
	next.command(`ls /home/app/data | wc -l; stat -c '%s' /home/app/more/big /home/app/more/hole`)
	next.run(0)
	if got, want := next.out.String(), strings.TrimPrefix(s.out.String(), "stopped\n")+"15728640\n157286400\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestVolumesAreStoredTogether: where one can't be stored, neither is the other.
func TestVolumesAreStoredTogether(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.memory = 64 << 20
	s.addVolume(owners.ReadWrite)
	s.addSecondVolume(owners.ReadWrite)
	s.command(`echo new > /home/app/data/f; head -c 60000000 /dev/zero > /home/app/more/big 2>/dev/null; true`)
	s.refused(exitRefused, wire.RuleVolumeTooLarge)
	if len(s.cas.tags) != 0 || len(s.host.stored) != 0 {
		t.Errorf("%d snapshots, tags %v", len(s.host.stored), s.cas.tags)
	}
}

func TestCommitRefused(t *testing.T) {
	t.Parallel()
	t.Run("node", func(t *testing.T) {
		s := newSandbox(t)
		s.addVolume(owners.ReadWrite)
		s.host.refusePut = problem.New(problem.Internal, "disk_full", "no space left")
		s.command("true")
		s.refused(exitRefused, "disk_full")
	})
	t.Run("CAS", func(t *testing.T) {
		s := newSandbox(t)
		s.addVolume(owners.ReadWrite)
		s.cas.refuseTag = problem.New(problem.Conflict, "lease_held", "another writer")
		s.command("true")
		s.refused(exitRefused, "lease_held")
	})
}

func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.memory = 64 << 20
	s.addVolume(owners.ReadWrite)
	s.cas.reply.Argv = []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"}
	s.run(128 + 9)
	if s.host.last.Phase != wire.Exited || s.host.last.Code != 137 || len(s.cas.tags) != 0 {
		t.Errorf("status %+v, tags %v", s.host.last, s.cas.tags)
	}
}

// TestStopWhileCommitting: a signal does not tear a commit.
func TestStopWhileCommitting(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.addVolume(owners.ReadWrite)
	s.host.slowPut = make(chan struct{})
	s.command(`echo kept > /home/app/data/f`)
	wait := s.start()
	s.phase(wire.Committing)
	s.signal("TERM")
	s.signal("INT")
	kept := s.keptAlive() // a store that takes long costs no rights
	close(s.host.slowPut)
	if !kept {
		t.Error("no keep-alives while a volume is stored")
	}
	if code := wait(); code != 0 || len(s.cas.tags) != 1 {
		t.Errorf("exit code %d, tags %v, %s", code, s.cas.tags, &s.errs)
	}
}

// keptAlive waits for two more reports to the CAS.
func (s *sandbox) keptAlive() bool {
	count := func() int {
		s.cas.mu.Lock()
		defer s.cas.mu.Unlock()
		return s.cas.keepAlives
	}
	from := count()
	for deadline := time.Now().Add(30 * time.Second); count() < from+2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// TestCASRestartsWhileCommitting: the tag is told again until it is taken.
func TestCASRestartsWhileCommitting(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.addVolume(owners.ReadWrite)
	s.cas.failTags = 2
	s.command(`echo kept > /home/app/data/f`)
	s.run(0)
	if len(s.cas.tags) != 1 {
		t.Errorf("tags %v", s.cas.tags)
	}
}

// TestCommandLinesCarryNothingReleased: argv and environment of the instance's
// processes, as any user of the host may read them, carry nothing released.
func TestCommandLinesCarryNothingReleased(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.cas.reply.Env = []string{"TOKEN=planted-token-123"}
	s.cas.reply.Argv = []string{"sleep", "100"}
	wait := s.start()
	s.phase(wire.Running)
	out, err := exec.Command("runc", "--root", filepath.Join(s.bundle, "runc"), "ps", "-f", "json", s.id).Output()
	must(t, err)
	for _, pid := range strings.FieldsFunc(string(out), func(r rune) bool { return r < '0' || r > '9' }) {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%s/cmdline", pid))
		must(t, err)
		if !bytes.Contains(cmdline, []byte("cupel-init")) {
			continue
		}
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%s/environ", pid))
		if bytes.Contains(append(cmdline, environ...), []byte("planted-token")) {
			t.Error("the launcher's command line or environment carries a secret")
		}
	}
	s.signal("KILL")
	wait()
}

func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.run(0)
	conn, err := net.DialTimeout("unix", filepath.Join(s.host.dir, wire.NodeSocket), time.Second)
	must(t, err)
	_ = conn.Close()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, s.bundle) && !strings.Contains(line, s.rootfs+" ") {
			t.Errorf("left mounted: %s", line)
		}
	}
	must(t, unix.Unmount(s.rootfs, 0)) // busy if anything still uses it
}

// TestOutsideAnInstance: the binary does nothing for whoever runs it by hand.
func TestOutsideAnInstance(t *testing.T) {
	t.Parallel()
	bin, err := buildLauncher()
	must(t, err)
	cases := []struct {
		args []string
		code int
		says string
	}{
		{[]string{"version"}, 0, "release protocol 2, snapshot format 2"},
		{nil, 2, "started by their node"},
		{[]string{"run", "--", "true"}, exitRefused, "not_an_instance"},
		{[]string{"stage2"}, exitRefused, ""},
	}
	for _, c := range cases {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			cmd := exec.Command(bin, c.args...)
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.says) {
				t.Errorf("exit code %d: %s", cmd.ProcessState.ExitCode(), out)
			}
		})
	}
	headers, err := exec.Command("go", "version", "-m", bin).CombinedOutput()
	if err != nil || !strings.Contains(string(headers), "CGO_ENABLED=0") {
		t.Errorf("not built as a static binary: %v\n%s", err, headers)
	}
}
