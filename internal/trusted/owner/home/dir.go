package home

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/filelock"
	"cupel.dev/cupel/internal/trusted/owner/reference"
)

// stateVersion is the version of the JSON files; newer ones are refused.
const stateVersion = 1

// Files of the directory.
const (
	keyFile      = "identity.key"
	certFile     = "identity.crt"
	pinsFile     = "cas.json"
	sessionsFile = "sessions.json"
	lockFile     = ".lock"
)

// lockPatience is how long a command waits for another one that holds the lock;
// it is held for single writes only.
const lockPatience = 10 * time.Second

// Dir is the owner's directory.
type Dir struct{ path string }

// Open opens the directory and makes it on first use. It must be the user's
// alone: who can write here can be the owner.
func Open(path string) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, problem.New(problem.Invalid, ruleOwnerDirectory, "%w", err)
	}

	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, problem.New(problem.Invalid, ruleOwnerDirectory, "%w", err).Fix("choose another with --config or CUPEL_CONFIG")
	}

	info, err := os.Stat(abs)
	if err != nil {
		return nil, problem.New(problem.Invalid, ruleOwnerDirectory, "%w", err)
	}

	if info.Mode().Perm()&0o022 != 0 {
		return nil, problem.New(problem.Denied, ruleOwnerDirectory, "others may write to %s", abs).Fix("chmod go-w %s", abs)
	}

	return &Dir{abs}, nil
}

// Path is where the directory is.
func (d *Dir) Path() string { return d.path }

// Pins returns the attested CASes.
func (d *Dir) Pins() (Pins, error) {
	return load[Pins](d, pinsFile, "attest your CASes again with `cupel cas attest ADDR`")
}

// UpdatePins changes them; an error of change leaves them as they were.
func (d *Dir) UpdatePins(ctx context.Context, change func(Pins) error) error {
	return update(ctx, d, pinsFile, d.Pins, change)
}

// Values returns the reference values that the owner vouches for; [reference.Add] adds one.
func (d *Dir) Values() ([]reference.Value, error) { return reference.Read(d.path) }

// Sessions returns the sessions that the owner created.
func (d *Dir) Sessions() (Sessions, error) {
	return load[Sessions](d, sessionsFile, "give the inputs of your sessions by flags again; the sessions themselves are at the CAS")
}

// UpdateSessions changes them; an error of change leaves them as they were.
func (d *Dir) UpdateSessions(ctx context.Context, change func(Sessions) error) error {
	return update(ctx, d, sessionsFile, d.Sessions, change)
}

// file is a state file.
type file[T any] struct {
	Version int `json:"version"`
	Entries T   `json:"entries"`
}

func load[T ~map[K]V, K comparable, V any](d *Dir, name, mend string) (T, error) {
	path := filepath.Join(d.path, name)
	b, err := atomicfile.Read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return T{}, nil
	case err != nil:
		return nil, problem.New(problem.Invalid, ruleOwnerState, "%w", err)
	}

	// Only the version first: a newer file may hold anything else.
	var head struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(b, &head) == nil && head.Version > stateVersion {
		return nil, problem.New(problem.Invalid, ruleOwnerState, "%s has version %d", path, head.Version).
			Want("at most %d", stateVersion).Fix("use the newer cupel that wrote it")
	}

	f := file[T]{}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err = dec.Decode(&f); err != nil {
		err = problem.NotJSON(err)
	} else {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("text after its end")
		}
	}

	if err == nil && (f.Version != stateVersion || f.Entries == nil) {
		err = errors.New("no version or entries")
	}

	if err != nil {
		return nil, problem.New(problem.Invalid, ruleOwnerState, "%s is damaged: %w", path, err).
			Fix("put it back from a backup, or move it away and %s", mend)
	}

	return f.Entries, nil
}

func update[T ~map[K]V, K comparable, V any](ctx context.Context, d *Dir, name string, load func() (T, error), change func(T) error) error {
	return d.locked(ctx, func() error {
		entries, err := load()
		if err != nil {
			return err
		}

		if err := change(entries); err != nil {
			return err
		}

		b, err := json.MarshalIndent(file[T]{stateVersion, entries}, "", "  ")
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		return d.write(name, append(b, '\n'))
	})
}

// write replaces a file whole: after a crash there is the old one or the new.
func (d *Dir) write(name string, b []byte) error {
	if err := atomicfile.Write(filepath.Join(d.path, name), b, 0o600); err != nil {
		return problem.New(problem.Unavailable, ruleOwnerDirectory, "%w", err).Fix("make room or check the permissions of %s", d.path)
	}
	return nil
}

// locked runs do while no other process changes the directory.
func (d *Dir) locked(ctx context.Context, do func() error) error {
	f, err := os.OpenFile(filepath.Join(d.path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return problem.New(problem.Unavailable, ruleOwnerDirectory, "%w", err).Fix("check the permissions of %s", d.path)
	}
	defer func() { _ = f.Close() }() // unlocks

	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()

	switch err := filelock.Wait(ctx, f); {
	case ctx.Err() != nil && err != nil:
		return problem.New(problem.Unavailable, ruleOwnerDirectory, "another cupel holds the lock of %s", d.path).
			Fix("wait for it to end and try again")
	case err != nil:
		return problem.New(problem.Unavailable, ruleOwnerDirectory, "lock %s: %w", d.path, err)
	}

	return do()
}
