package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/client"
)

// TestUpWaitsForAnEnd: a start that comes while a cupeld ends, or while somebody stops
// what runs, is no refusal to use what is gone in a moment: it says what it waits for, and
// then starts.
func TestUpWaitsForAnEnd(t *testing.T) {
	o := upOptions(t)
	if err := os.Mkdir(o.State, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := l.lock(workUp)
	if err != nil {
		t.Fatal(err)
	}
	lock.end()

	// Who has no patience hears that somebody is at work, not that something runs.
	_, err = detach(t.Context(), o.State, nil, -time.Second, nil)
	held, ok := errors.AsType[*lockedError](err)
	if !ok {
		t.Fatalf("without patience: %v", err)
	}
	if p := held.problem(); p.Rule != ruleAtWork || !strings.Contains(p.Error(), "is about to end") || !strings.Contains(p.Mend, "wait until that has ended") {
		t.Errorf("without patience: %v", p)
	}

	var out bytes.Buffer
	up := exec.Command("bash", append([]string{"-c", `exec -a cupeld "$0" "$@"`, os.Args[0]}, upFlags(o)...)...)
	up.Stdout = &out
	said, err := up.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := said.Read(b)
	if want := "waiting: the cupeld that ran on " + o.State; err != nil || !strings.Contains(string(b[:n]), want) {
		t.Errorf("says %q, %v", b[:n], err)
	}
	t.Logf("%s", b[:n])

	// A down that waits for the same end has its turn first.
	done := l.goFirst(t.Context())
	lock.release()
	down, err := l.lock(workDown)
	for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		down, err = l.lock(workDown)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.ReadEndpoint(o.State); err == nil {
		t.Error("the start came before")
	}
	done()
	down.release()
	if err := up.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}

	// A cupeld that was told to end, as at an upgrade, is not one that runs already.
	before, err := client.ReadEndpoint(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(before.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		next, err := l.lock(workCheck)
		if err == nil {
			next.release()
			break
		}
		if held, ok := errors.AsType[*lockedError](err); ok && held.what == workEnd {
			break
		}
	}
	if _, stderr, code := cupeld(t, ":", upFlags(o)...); code != 0 {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if after, err := client.ReadEndpoint(o.State); err != nil || after.PID == before.PID {
		t.Errorf("%+v, %v", after, err)
	}
}

// TestDownsAndUpsAtOnce: in whatever order they come, each down stops, and each up
// starts, says that one runs, or that a down stopped it.
func TestDownsAndUpsAtOnce(t *testing.T) {
	o := upOptions(t)
	type answer struct {
		args   []string
		stderr string
		code   int
	}
	answers := make(chan answer)
	const each = 4
	for range each {
		for _, args := range [][]string{{"down", "--state", o.State}, upFlags(o)} {
			go func() {
				_, stderr, code := cupeld(t, ":", args...)
				answers <- answer{args, stderr, code}
			}()
		}
	}
	for range 2 * each {
		a := <-answers
		stopped := a.code == 130 || strings.Contains(a.stderr, "cupeld_ended")
		if a.code != 0 && (a.args[0] == "down" || a.code != codeRuns && !stopped) {
			t.Errorf("%s: exit %d: %s", a.args[0], a.code, a.stderr)
		}
	}
	_, stderr, code := cupeld(t, ":", "down", "--state", o.State)
	if code != 0 {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if _, err := client.ReadEndpoint(o.State); err == nil {
		t.Errorf("after the last down something serves")
	}
	nothingLeft(t, o)
}

// TestOthersLocks: a lock that any user may hold, as that of the folder itself, keeps
// nobody from anything, and one of root's on the file by which a start waits for a down
// keeps only starts from beginning, which say who has it.
func TestOthersLocks(t *testing.T) {
	o := upOptions(t)
	if err := os.Mkdir(o.State, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	hold := func(path string) (letGo func()) {
		t.Helper()
		other := exec.Command("flock", "--no-fork", path, "sh", "-c", "echo held; exec sleep 600")
		out, err := other.StdoutPipe()
		if err == nil {
			err = other.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		letGo = sync.OnceFunc(func() { _ = errors.Join(other.Process.Kill(), other.Wait()) })
		t.Cleanup(letGo)
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return letGo
	}

	hold(o.State)
	// As a start left them, and a copy made them readable.
	if err := errors.Join(os.WriteFile(l.lockFile(), nil, 0o600), os.WriteFile(l.turnFile(), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := cupeld(t, ":", "down", "--state", o.State); code != 0 {
		t.Errorf("down: exit %d: %s", code, stderr)
	}
	if info, err := os.Stat(l.turnFile()); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	letGo := hold(l.turnFile())
	for _, args := range [][]string{{"down"}, {"down", "--force"}} {
		if _, stderr, code := cupeld(t, ":", append(args, "--state", o.State)...); code != 0 {
			t.Errorf("%s: exit %d: %s", args, code, stderr)
		}
	}
	_, err = detach(t.Context(), o.State, nil, -time.Second, nil)
	held, ok := errors.AsType[*lockedError](err)
	if !ok {
		t.Fatalf("without patience: %v", err)
	}
	p := held.problem()
	t.Log(p)
	if p.Rule != ruleAtWork || !strings.Contains(p.Error(), fmt.Sprintf("another program (process %d) holds the lock of %s", held.pid, l.turnFile())) || held.pid == 0 {
		t.Errorf("without patience: %v", p)
	}

	lock, err := l.makeInTurn(t.Context(), time.Now().Add(time.Hour), func(line string) {
		t.Log(line)
		letGo()
	})
	if err != nil {
		t.Fatal(err)
	}
	lock.release()
}
