package sysctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cupel.dev/cupel/internal/trusted/filelock"
)

// Keeper records in Dir and changes below Proc.
type Keeper struct {
	Dir  string // machine-wide, e.g. /run/cupel-sysctl
	Proc string // /proc/sys
}

// Default is the machine's keeper.
func Default() Keeper { return Keeper{Dir: "/run/cupel-sysctl", Proc: "/proc/sys"} }

// Holder is who needs a setting to be another: an installation, by its id.
type Holder string

// Setting is one of the kernel's, by its path below /proc/sys: "net/ipv4/ip_forward".
type Setting string

// record is what the settings were before and who needs them otherwise.
type record struct {
	Found   map[Setting]string   `json:"found"` // values before the first change
	Holders map[Holder][]Setting `json:"holders"`
}

// Hold sets each setting to its value for holder until Release.
// Settings in also change by themselves with those (the kernel resets some):
// they are recorded, not set. Holding again adds to what is held. It returns the value
// that each had before the first change, for [Keeper.Remember].
func (k Keeper) Hold(holder Holder, settings map[Setting]string, also ...Setting) (found map[Setting]string, err error) {
	found = map[Setting]string{}
	err = k.locked(func(r *record) error {
		names := append(slices.Sorted(maps.Keys(settings)), also...)
		for _, name := range names {
			if _, known := r.Found[name]; known {
				continue
			}

			value, err := k.read(name)
			if err != nil {
				return err
			}
			r.Found[name] = value
		}

		for _, name := range names {
			found[name] = r.Found[name]
		}

		held := append(r.Holders[holder], names...)
		slices.Sort(held)
		r.Holders[holder] = slices.Compact(held)

		// The record is written before the first change.
		if err := k.save(r); err != nil {
			return err
		}

		for name, value := range settings {
			if err := k.write(name, value); err != nil {
				return err
			}
		}
		return nil
	})
	return found, err
}

// Remember records again what Hold found, and reports true, where the record has lost
// the holder: somebody removed the folder, and who holds next would take our changes for
// what was there before.
func (k Keeper) Remember(holder Holder, found map[Setting]string) (lost bool, err error) {
	err = k.locked(func(r *record) error {
		if lost = len(found) > 0 && len(r.Holders[holder]) == 0; !lost {
			return nil
		}

		maps.Copy(r.Found, found)
		r.Holders[holder] = slices.Sorted(maps.Keys(found))
		return k.save(r)
	})
	return lost, err
}

// Release gives up what holder holds; a setting that nobody holds any more is
// put back. A holder that holds nothing is no error.
func (k Keeper) Release(holder Holder) error {
	if _, err := os.Stat(k.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return k.locked(func(r *record) error {
		delete(r.Holders, holder)

		needed := map[Setting]bool{}
		for _, names := range r.Holders {
			for _, n := range names {
				needed[n] = true
			}
		}

		// Switches first, then what they reset: deepest names last.
		names := slices.SortedFunc(maps.Keys(r.Found), func(a, b Setting) int {
			return cmp.Or(cmp.Compare(a.depth(), b.depth()), cmp.Compare(a, b))
		})

		var errs []error
		for _, name := range names {
			if needed[name] {
				continue
			}

			if err := k.write(name, r.Found[name]); err != nil {
				errs = append(errs, err)
				continue
			}
			delete(r.Found, name)
		}

		return errors.Join(append(errs, k.save(r))...)
	})
}

// depth is how deep a setting lies.
func (s Setting) depth() int { return strings.Count(string(s), "/") }

func (k Keeper) path() string { return filepath.Join(k.Dir, "found.json") }

// locked runs f with the record under the folder's lock, and removes the folder
// when nothing is recorded any more.
func (k Keeper) locked(f func(*record) error) error {
	var lock *os.File
	for tries := 0; ; tries++ {
		err := os.MkdirAll(k.Dir, 0o700)
		if err == nil {
			lock, err = os.Open(k.Dir)
		}

		// The last holder may remove the folder while it is made, and before it is open.
		if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)) && tries < 100 {
			continue
		}
		if err != nil {
			return fmt.Errorf("keep kernel settings: %w", err)
		}

		if err := filelock.Wait(context.Background(), lock); err != nil {
			lock.Close()
			return fmt.Errorf("lock kernel settings: %w", err)
		}

		// The last holder may have removed the folder while we waited.
		mine, err1 := lock.Stat()
		now, err2 := os.Stat(k.Dir)
		if err1 == nil && err2 == nil && os.SameFile(mine, now) {
			break
		}
		lock.Close()
	}
	defer lock.Close()

	r := record{Found: map[Setting]string{}, Holders: map[Holder][]Setting{}}
	b, err := os.ReadFile(k.path())
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read kernel settings found before: %w", err)
	}

	err = f(&r)
	if len(r.Found) == 0 && len(r.Holders) == 0 {
		err = errors.Join(err, os.RemoveAll(k.Dir))
	}
	return err
}

// save writes the record in place of the one before.
func (k Keeper) save(r *record) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}

	tmp := k.path() + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("record kernel settings: %w", err)
	}
	return os.Rename(tmp, k.path())
}

func (k Keeper) read(name Setting) (string, error) {
	b, err := os.ReadFile(filepath.Join(k.Proc, string(name)))
	if err != nil {
		return "", fmt.Errorf("read kernel setting: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// write changes a setting, unless it has that value already.
func (k Keeper) write(name Setting, value string) error {
	if now, err := k.read(name); err == nil && now == value {
		return nil
	}
	if err := os.WriteFile(filepath.Join(k.Proc, string(name)), []byte(value+"\n"), 0o644); err != nil {
		return fmt.Errorf("change kernel setting: %w", err)
	}
	return nil
}
