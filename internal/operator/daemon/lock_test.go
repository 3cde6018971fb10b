package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/testing/need"
)

// TestThreeUpsAtOnce: one starts; the others say so once it serves, with an exit code
// of their own.
func TestThreeUpsAtOnce(t *testing.T) {
	o := upOptions(t)
	var mu sync.Mutex
	var won, lost []string
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			stdout, stderr, code := cupeld(t, ":", upFlags(o)...)
			mu.Lock()
			defer mu.Unlock()
			switch code {
			case 0:
				won = append(won, stdout)
			case codeRuns:
				lost = append(lost, stderr)
				if e, err := client.ReadEndpoint(o.State); err != nil || !strings.Contains(stderr, fmt.Sprintf("cupeld already runs on %s (process %d)", o.State, e.PID)) {
					t.Errorf("says %q, while %+v serves: %v", stderr, e, err)
				}
			default:
				t.Errorf("exit %d: %s%s", code, stdout, stderr)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || len(lost) != 2 {
		t.Errorf("%d started, %d said that one runs", len(won), len(lost))
	}
	if len(lost) > 0 {
		t.Log(lost[0])
	}
}

// TestOtherFlagsForOneThatRuns: whoever starts a second cupeld to have other flags is told
// how the first gets them while its apps go on.
func TestOtherFlagsForOneThatRuns(t *testing.T) {
	p := (&lockedError{dir: "/srv/cupel", pid: 4711, what: workUp}).problem()
	if p.Rule != ruleRuns || !strings.Contains(p.Mend, "to give it other flags: kill 4711 (apps go on), then this again with all its flags") {
		t.Errorf("%s", p)
	}
}

// TestNotesDontMix: where two instances tell at once what keeps them, who waits reads one
// of it, and no part of a character.
func TestNotesDontMix(t *testing.T) {
	l, err := newLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lock, err := l.lock(workUp)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.release()
	note := func() string {
		f, err := os.Open(l.lockFile())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		return readHolder(l.dir, f).note
	}
	long, short := strings.Repeat("A", 900), strings.Repeat("b", 40)
	for range 3000 {
		var both sync.WaitGroup
		both.Go(func() { lock.say(long) })
		both.Go(func() { lock.say(short) })
		both.Wait()
		if got := note(); got != long && got != short {
			t.Fatalf("%.60q… (%d bytes)", got, len(got))
		}
	}
	lock.say("x" + strings.Repeat("ä", noteLimit))
	if got := note(); !utf8.ValidString(got) || !strings.HasSuffix(got, "ä") {
		t.Errorf("%q", got[len(got)-3:])
	}
}

// TestImmutableLock: a lock's file that can't be written is no disk that can't be.
func TestImmutableLock(t *testing.T) {
	need.Root(t)
	l, err := newLayout(folder(t))
	if err == nil {
		err = os.MkdirAll(l.dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	lock, err := l.lock(workUp)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.release()
	if out, err := exec.Command("chattr", "+i", l.lockFile()).CombinedOutput(); err != nil {
		need.Missing(t, "a file system with attributes: "+string(out))
	}
	defer func() { _ = exec.Command("chattr", "-i", l.lockFile()).Run() }()
	_, err = l.lock(workDown)
	held, ok := errors.AsType[*lockedError](err)
	if !ok || held.note != l.lockFile()+" can't be written, so that it doesn't say what is waited for: lsattr shows attributes" {
		t.Errorf("%v: %+v", err, held)
	}
}

// TestUpDownCleanupAtOnce: whoever comes first, each ends well or says who is at work,
// and nobody ends another one's work.
func TestUpDownCleanupAtOnce(t *testing.T) {
	o := upOptions(t)
	if _, stderr, code := cupeld(t, ":", upFlags(o)...); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	var wg sync.WaitGroup
	for _, args := range [][]string{
		{"down", "--state", o.State},
		{"down", "--state", o.State},
		{"cleanup", "--yes", "--state", o.State},
		{"cleanup", "--yes", "--state", o.State},
		upFlags(o),
		upFlags(o),
	} {
		wg.Go(func() {
			stdout, stderr, code := cupeld(t, ":", args...)
			// An up may be stopped by a down that comes after it.
			refused := args[0] == "up" && (code == codeRuns || code == 4 && strings.Contains(stderr, "at_work: 'cupel ") ||
				code == 130 || strings.Contains(stderr, "cupeld_ended"))
			if code != 0 && !refused {
				t.Errorf("%s: exit %d: %s%s", args[0], code, stdout, stderr)
			}
			if code == 4 {
				t.Log(stderr)
			}
		})
	}
	wg.Wait()
}

// TestLockIsTheFolders: a lock whose file was removed is nobody's any more, and what
// holds a lock says what for.
func TestLockIsTheFolders(t *testing.T) {
	l, err := newLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.lock(workCleanup)
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.lock(workUp)
	held, ok := errors.AsType[*lockedError](err)
	if !ok || held.what != workCleanup || held.pid != os.Getpid() {
		t.Fatalf("held: %v", err)
	}
	if p := held.problem(); p.Rule != ruleAtWork || !strings.Contains(p.Actual, "'cupel cleanup' works on") {
		t.Errorf("a cleanup is at work: %v", p)
	}

	if err := os.Remove(l.lockFile()); err != nil {
		t.Fatal(err)
	}
	second, err := l.lock(workUp)
	if err != nil {
		t.Fatalf("the folder's new lock: %v", err)
	}
	if same, err := first.is(l.lockFile()); same || err != nil {
		t.Errorf("the removed file is the lock still: %v", err)
	}
	first.release()
	if _, err := l.lock(workUp); err == nil {
		t.Error("taken twice")
	}
	second.release()

	// An earlier release wrote its number alone.
	old, err := os.OpenFile(l.lockFile(), os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	if _, err := old.WriteString("4711"); err != nil {
		t.Fatal(err)
	}
	if held := readHolder(l.dir, old); held.pid != 4711 || held.what != workUp {
		t.Errorf("%+v", held)
	}
	if _, err := (layout{dir: filepath.Join(l.dir, "none")}).lock(workDown); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// TestCleanupTakesWhatARefusedUpLeft, which is little, and nothing that looks like it.
func TestCleanupTakesWhatARefusedUpLeft(t *testing.T) {
	o := upOptions(t)
	o.CAS = "/nonexistent/cupel-cas"
	if _, stderr, code := cupeld(t, ":", upFlags(o)...); code == 0 {
		t.Fatalf("up: %s", stderr)
	}
	if stdout, stderr, code := cupeld(t, ":", "cleanup", "--yes", "--state", o.State); code != 0 {
		t.Errorf("cleanup: exit %d: %s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(o.State); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}

	need.Root(t)
	other := filepath.Join(filepath.Dir(o.State), "other")
	for _, file := range []string{"log/syslog", "node/x/y"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(other, filepath.Dir(file)), 0o755), os.WriteFile(filepath.Join(other, file), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	_, stderr, code := cupeld(t, ":", "cleanup", "--yes", "--state", other)
	if code == 0 || !strings.Contains(stderr, "no state folder of Cupel") {
		t.Errorf("another's logs: exit %d: %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(other, "cupeld.lock")); err == nil {
		t.Error("and it leaves a lock there")
	}
}
