package node

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestDamagedVolume: what a disk damaged of a snapshot is replaced by the registry's copy
// of that very snapshot, and told; never by another one. What is damaged everywhere the
// launcher judges.
func TestDamagedVolume(t *testing.T) {
	id := ident.Digest{1}
	other := func(path string) error { return os.WriteFile(path, []byte("older"), 0o600) }
	cut := func(path string) error { return os.Truncate(path, 2) }
	folder := func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }
	for _, c := range []struct {
		name     string
		damage   func(path string) error
		stored   string // by the registry; empty: nothing
		want     string // what the launcher gets
		told     bool
		noteSays string
	}{
		{"cut", cut, "newer", "newer", true, ""},
		{"another one", other, "newer", "newer", true, ""},
		{"a folder", folder, "newer", "newer", true, ""},
		{"cut, and nothing in the registry", cut, "", "ne", false, "and the registry's can't take its place: volume_missing: none"},
		{"cut, and in the registry an older one", cut, "older", "ne", false, "and the registry's can't take its place: it has other bytes than were stored there"},
		{"a folder, and nothing in the registry", folder, "", string(ruleVolumeDamaged), false, "and the registry's can't take its place: volume_missing: none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &replica{stored: map[wire.Snapshot]string{}}
			s := store(t, r)
			var told []manager.Incident
			var noted error
			s.tell = func(_ context.Context, in manager.Incident) { told = append(told, in) }
			s.note = func(_ context.Context, _ string, err error) { noted = err }
			n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
			for generation, text := range []string{"older", "newer"} {
				if err := put(n, id, uint64(generation)+1, text); err != nil {
					t.Fatal(err)
				}
			}
			newest := named(id, 2, "newer")
			if r.stored[newest] = c.stored; c.stored == "" {
				delete(r.stored, newest)
			}
			if err := c.damage(s.path(newest)); err != nil {
				t.Fatal(err)
			}

			for range 2 {
				if got := get(t, n, newest); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			}
			if want := map[bool]int32{true: 1, false: 2}[c.told]; r.pulls.Load() != want {
				t.Errorf("fetched %d times, want %d: once to judge and to keep it", r.pulls.Load(), want)
			}
			if left, _ := filepath.Glob(filepath.Join(s.dir, "*", temporary)); len(left) > 0 {
				t.Errorf("left %v", left)
			}
			if (noted != nil) != (c.noteSays != "") || noted != nil && !strings.Contains(noted.Error(), c.noteSays) {
				t.Errorf("noted %v, want %q", noted, c.noteSays)
			}
			aside := filepath.Join(filepath.Dir(s.dir), "damaged", id.String()+"-2-"+newest.Tag.String())
			_, err := os.Stat(aside)
			if (len(told) == 1) != c.told || (err == nil) != c.told {
				t.Fatalf("told %+v, put aside: %v", told, err)
			}
			if c.told {
				t.Log(told[0].Message)
				if kept, err := s.kept(id); err != nil || kept.Generation != 2 || kept.Size != int64(len("older")+len("newer")) {
					t.Errorf("kept now: %+v, %v", kept, err)
				}
				if !strings.Contains(told[0].Message, "generation 2 of volume "+id.String()) || !strings.Contains(told[0].Message, "put aside as node/damaged/"+filepath.Base(aside)) || told[0].Reason != reasonVolumeDamaged {
					t.Errorf("told %+v", told[0])
				}
			} else {
				t.Log(noted)
			}
		})
	}
}

// slowReplica answers no faster than a network does.
type slowReplica struct{ *replica }

func (r slowReplica) Stream(ctx context.Context, v wire.Snapshot) (io.ReadCloser, error) {
	time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
	return r.replica.Stream(ctx, v)
}

// TestDamagedVolumeOfSeveral: where several instances read a damaged snapshot at once, it is
// replaced once, told once, and each of them gets the whole one.
func TestDamagedVolumeOfSeveral(t *testing.T) {
	id := ident.Digest{1}
	for range 20 {
		r := &replica{stored: map[wire.Snapshot]string{}}
		s := store(t, slowReplica{r})
		var told atomic.Int32
		s.tell = func(context.Context, manager.Incident) { told.Add(1) }
		n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
		if err := put(n, id, 1, "newer"); err != nil {
			t.Fatal(err)
		}
		newest := named(id, 1, "newer")
		if err := os.Truncate(s.path(newest), 2); err != nil {
			t.Fatal(err)
		}

		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if got := get(t, n, newest); got != "newer" {
					t.Errorf("got %q", got)
				}
			})
		}
		all.Wait()
		aside, err := os.ReadFile(filepath.Join(filepath.Dir(s.dir), "damaged", id.String()+"-1-"+newest.Tag.String()))
		if err != nil || string(aside) != "ne" {
			t.Errorf("put aside %q, %v; want the damaged one", aside, err)
		}
		if told.Load() != 1 {
			t.Errorf("told %d times", told.Load())
		}
	}
}

// TestDamagedVolumeNoRoom: where the disk has no room for the registry's copy, or the damaged
// one can't be put aside, instances get the registry's.
func TestDamagedVolumeNoRoom(t *testing.T) {
	need.Root(t)
	id, text := ident.Digest{1}, strings.Repeat("newer", 10<<10)
	for _, c := range []struct {
		name     string
		inTheWay bool // of what is put aside
		noteSays string
	}{
		{"full", false, ""},
		{"a file where damaged ones are put", true, "put a damaged volume aside: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &replica{stored: map[wire.Snapshot]string{}}
			s := store(t, r)
			node := s.dir
			if err := syscall.Mount("tmpfs", node, "tmpfs", 0, "size=64k"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = syscall.Unmount(node, syscall.MNT_DETACH) }()
			s.dir = filepath.Join(node, "volumes")
			var told []manager.Incident
			var noted error
			s.tell = func(_ context.Context, in manager.Incident) { told = append(told, in) }
			s.note = func(_ context.Context, _ string, err error) { noted = err }
			n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
			err := put(n, id, 1, text)
			newest := named(id, 1, text)
			if err == nil {
				err = os.WriteFile(s.path(newest), []byte(strings.ToUpper(text)), 0o600)
			}
			if err == nil && c.inTheWay {
				err = os.WriteFile(filepath.Join(node, damagedDir), nil, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}

			for range 2 {
				if got := get(t, n, newest); got != text {
					t.Errorf("got %d bytes, want the registry's %d", len(got), len(text))
				}
			}
			if left, _ := filepath.Glob(filepath.Join(s.dir, "*", temporary)); len(left) > 0 || (len(told) == 1) == c.inTheWay {
				t.Errorf("told %+v, left %v", told, left)
			}
			if (noted != nil) != (c.noteSays != "") || noted != nil && !strings.Contains(noted.Error(), c.noteSays) {
				t.Errorf("noted %v, want %q", noted, c.noteSays)
			}
			t.Log(noted)
		})
	}
}

// TestJudgedOnce: what was found whole is read once for each instance, rather than twice,
// until an instance refuses what it got.
func TestJudgedOnce(t *testing.T) {
	r := &replica{stored: map[wire.Snapshot]string{}}
	s := store(t, r)
	told := 0
	s.tell = func(context.Context, manager.Incident) { told++ }
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
	id := ident.Digest{1}
	if err := put(n, id, 1, "newer"); err != nil {
		t.Fatal(err)
	}
	newest := named(id, 1, "newer")
	want := func(when, text string) {
		t.Helper()
		if got := get(t, n, newest); got != text {
			t.Errorf("%s: got %q, want %q", when, got, text)
		}
	}
	want("stored", "newer")

	// A disk changes bytes and leaves no trace of it in the file system.
	info, err := os.Stat(s.path(newest))
	if err == nil {
		err = errors.Join(os.WriteFile(s.path(newest), []byte("older"), 0o600), os.Chtimes(s.path(newest), info.ModTime(), info.ModTime()))
	}
	if err != nil {
		t.Fatal(err)
	}
	want("as it was judged", "older")
	refused := wire.Status{Version: wire.StatusVersion, Phase: wire.Refused, Problem: problem.New(problem.Denied, "volume_tampered", "damaged")}
	if _, err := n.Report(t.Context(), refused); err != nil {
		t.Fatal(err)
	}
	want("refused by an instance", "newer")

	if err := os.WriteFile(s.path(newest), []byte("a hand's"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("changed", "newer")
	if told != 2 {
		t.Errorf("told %d times, want 2", told)
	}
}

// TestJudgingEnds with who asked, however long the snapshot is.
func TestJudgingEnds(t *testing.T) {
	s := store(t, &replica{})
	v := named(ident.Digest{1}, 1, "much")
	if err := os.MkdirAll(filepath.Dir(s.path(v)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(v), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.path(v), 8<<40); err != nil { // with no more than a hole
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := s.open(ctx, v); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("opened: %v", err)
	}
}
