package home

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"github.com/google/go-cmp/cmp"
)

func clock() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func open(t *testing.T) *Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "cupel"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestKeyPairIsMadeOnce(t *testing.T) {
	d := open(t)
	hashes := make([]ident.KeyHash, 8)
	var wg sync.WaitGroup
	for i := range hashes {
		wg.Go(func() {
			id, err := d.KeyPair(t.Context(), clock)
			if err != nil {
				t.Error(err)
				return
			}
			hashes[i] = id.KeyHash
		})
	}
	wg.Wait()
	for _, h := range hashes {
		if h != hashes[0] || h.IsZero() {
			t.Fatalf("two identities: %v", hashes)
		}
	}
	for _, name := range []string{keyFile, certFile} {
		info, err := os.Stat(filepath.Join(d.Path(), name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(d.Path()); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", info.Mode(), err)
	}
}

func TestKeyPairSurvivesLostCertificate(t *testing.T) {
	d := open(t)
	first, err := d.KeyPair(t.Context(), clock)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(d.Path(), certFile)); err != nil {
		t.Fatal(err)
	}
	again, err := d.KeyPair(t.Context(), clock)
	if err != nil || again.KeyHash != first.KeyHash {
		t.Errorf("%v: %s, was %s", err, again.KeyHash, first.KeyHash)
	}
}

// TestLostKeyIsNotReplaced: beside what was made with a key that is gone no other key
// is made, of which nobody would hear.
func TestLostKeyIsNotReplaced(t *testing.T) {
	for name, lost := range map[string][]string{
		"key":             {keyFile},
		"key, sessions":   {keyFile, sessionsFile},
		"key, all but it": {keyFile, certFile},
		"sessions left":   {keyFile, certFile, pinsFile},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			first, err := d.KeyPair(t.Context(), clock)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(
				d.UpdateSessions(t.Context(), func(all Sessions) error { all["shop"] = SessionRecord{CAS: "cas:8081"}; return nil }),
				d.UpdatePins(t.Context(), func(pins Pins) error { pins["cas:8081"] = Pin{}; return nil }),
			); err != nil {
				t.Fatal(err)
			}
			away := t.TempDir()
			for _, file := range lost {
				if err := os.Rename(filepath.Join(d.path, file), filepath.Join(away, file)); err != nil {
					t.Fatal(err)
				}
			}

			_, err = d.KeyPair(t.Context(), clock)
			p := problem.From(err)
			if err == nil || p.Rule != "identity_lost" || !strings.Contains(p.Actual, sessionsFile) && !strings.Contains(p.Actual, certFile) || !strings.Contains(p.Mend, "back-up") || !strings.Contains(p.Mend, "to begin anew") {
				t.Fatalf("%v", err)
			}
			t.Log(err)
			if _, err := os.Stat(filepath.Join(d.path, keyFile)); !errors.Is(err, fs.ErrNotExist) {
				t.Fatal("a key was made")
			}

			if err := os.Rename(filepath.Join(away, keyFile), filepath.Join(d.path, keyFile)); err != nil {
				t.Fatal(err)
			}
			if again, err := d.KeyPair(t.Context(), clock); err != nil || again.KeyHash != first.KeyHash {
				t.Errorf("with the key put back: %v", err)
			}
		})
	}
}

// TestPinsNeedNoKey: a folder into which only the pins of a CAS were laid, as by a job with
// an owner's folder of its own, gets a key, and trusts what the pins say.
func TestPinsNeedNoKey(t *testing.T) {
	d := open(t)
	pin := Pin{Identity: ident.KeyHash{1}}
	if err := d.UpdatePins(t.Context(), func(pins Pins) error { pins["cas:8081"] = pin; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := d.KeyPair(t.Context(), clock); err != nil {
		t.Errorf("only pins are there: %v", err)
	}
	if pins, err := d.Pins(); err != nil || pins["cas:8081"].Identity != pin.Identity {
		t.Errorf("the pins are %v, %v", pins, err)
	}
}

func TestKeyPairRefuses(t *testing.T) {
	other, err := open(t).KeyPair(t.Context(), clock)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		harm func(d *Dir) error
		says string
	}{
		"readable key":          {func(d *Dir) error { return os.Chmod(filepath.Join(d.path, keyFile), 0o640) }, "others may read"},
		"damaged key":           {func(d *Dir) error { return os.WriteFile(filepath.Join(d.path, keyFile), []byte("x"), 0o600) }, "put it back from a backup"},
		"empty key":             {func(d *Dir) error { return os.Truncate(filepath.Join(d.path, keyFile), 0) }, "is damaged"},
		"damaged certificate":   {func(d *Dir) error { return os.Truncate(filepath.Join(d.path, certFile), 40) }, "it is made again from the key"},
		"another's certificate": {func(d *Dir) error { return os.WriteFile(filepath.Join(d.path, certFile), other.PEM, 0o600) }, "not of the key"},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			if _, err := d.KeyPair(t.Context(), clock); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(d); err != nil {
				t.Fatal(err)
			}
			_, err := d.KeyPair(t.Context(), clock)
			if err == nil || problem.From(err).Rule != "owner_identity" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %s", err, c.says)
			}
		})
	}
}

func TestStateComesBack(t *testing.T) {
	d := open(t)
	if p, err := d.Pins(); err != nil || len(p) != 0 || p == nil {
		t.Fatalf("fresh: %v %v", p, err)
	}
	root := ident.Sum([]byte("root"))
	want := Pins{"cas:8081": {Identity: ident.KeyHash{1}, Measurement: ident.Measurement{2}, SimulationRoot: &root, Attested: clock()}}
	err := d.UpdatePins(t.Context(), func(p Pins) error { p["cas:8081"] = want["cas:8081"]; return nil })
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Pins()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	failed := errors.New("no")
	if err := d.UpdatePins(t.Context(), func(p Pins) error { clear(p); return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if got, _ := d.Pins(); len(got) != 1 {
		t.Error("a failed change was kept")
	}
	record := SessionRecord{CAS: "cas:8081", Runtime: "python", Command: "python3 client-app.py", Hash: root, At: clock()}
	if err := d.UpdateSessions(t.Context(), func(s Sessions) error { s["a/b"] = record; return nil }); err != nil {
		t.Fatal(err)
	}
	sessions, err := d.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Sessions{"a/b": record}, sessions); diff != "" {
		t.Error(diff)
	}
	if known, err := d.Values(); err != nil || len(known) != 0 {
		t.Errorf("%v %v", known, err)
	}
}

func TestUpdatesLoseNothing(t *testing.T) {
	d := open(t)
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			err := d.UpdatePins(t.Context(), func(p Pins) error { p[strings.Repeat("a", i+1)] = Pin{}; return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if p, err := d.Pins(); err != nil || len(p) != 30 {
		t.Errorf("%d of 30, %v", len(p), err)
	}
	left, err := filepath.Glob(filepath.Join(d.Path(), ".cas*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestDamagedStateIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"empty":         {"", "is damaged"},
		"cut":           {`{"version":1,"entries":{"a":`, "is damaged"},
		"unknown field": {`{"version":1,"entries":{"a":{"identiti":""}}}`, "is damaged"},
		"no version":    {`{"entries":{}}`, "is damaged"},
		"no entries":    {`{"version":1}`, "is damaged"},
		"trailing":      {`{"version":1,"entries":{}}{}`, "is damaged"},
		"short hash":    {`{"version":1,"entries":{"a":{"identity":"00"}}}`, "is damaged"},
		"newer":         {`{"version":2,"things":[]}`, "use the newer cupel"},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			path := filepath.Join(d.Path(), pinsFile)
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := d.Pins()
			if err == nil || problem.From(err).Rule != "owner_state" || problem.From(err).Mend == "" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %s", err, c.says)
			}
			if err := d.UpdatePins(t.Context(), func(Pins) error { return nil }); err == nil {
				t.Error("a damaged file was written over")
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != c.text {
				t.Errorf("the damaged file was changed: %q %v", now, err)
			}
		})
	}
}

func TestLockIsWaitedFor(t *testing.T) {
	d := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := d.locked(t.Context(), func() error {
		cancel()
		return d.locked(ctx, func() error { return nil })
	})
	if err == nil || problem.KindOf(err) != problem.Unavailable || !strings.Contains(err.Error(), "another cupel") {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefusesSharedDirectory(t *testing.T) {
	path := t.TempDir()
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || problem.KindOf(err) != problem.Denied {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "cupel")); err == nil || problem.KindOf(err) != problem.Invalid {
		t.Errorf("got %v", err)
	}
}
