package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/volume"
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
		{"a folder, and nothing in the registry", folder, "", volumeDamaged, false, "and the registry's can't take its place: volume_missing: none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &replica{stored: map[volume.Snapshot]string{}}
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
				if !strings.Contains(told[0].Message, "generation 2 of volume "+id.String()) || !strings.Contains(told[0].Message, "put aside as node/damaged/"+filepath.Base(aside)) || told[0].Reason != volumeDamaged {
					t.Errorf("told %+v", told[0])
				}
			} else {
				t.Log(noted)
			}
		})
	}
}
