package reference

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/filelock"
)

// valuesFile holds the measurements that the owner can vouch for.
const valuesFile = "vouched.json"

// Value is a measurement and why the owner can vouch for it.
type Value struct {
	Measurement ident.Measurement `json:"measurement"`
	Runtime     string            `json:"runtime"`
	Definition  ident.Digest      `json:"definition"` // of the runtime's definition
	Lock        ident.Digest      `json:"lock"`       // of the lock file's bytes
	Launcher    ident.Digest      `json:"launcher"`
	IndexDate   time.Time         `json:"index_date"` // how old the packages may be
	How         string            `json:"how"`        // for people
	At          time.Time         `json:"at"`         // when the owner did it
}

type valuesState struct {
	Version int     `json:"version"`
	Values  []Value `json:"vouched"` // in the order in which they were added
}

// Add remembers v in the owner's folder dir, once for each measurement: doing
// it again renews it. Several processes may do so at the same time.
func Add(dir string, v Value) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("owner's folder: %w", err)
	}

	lock, err := os.OpenFile(filepath.Join(dir, ".vouched.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("owner's folder: %w", err)
	}
	defer lock.Close() // releases the lock
	if err := filelock.Wait(context.Background(), lock); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}

	all, err := Read(dir)
	if err != nil {
		return err
	}

	all = slices.DeleteFunc(all, func(o Value) bool { return o.Measurement == v.Measurement })

	b, err := json.MarshalIndent(valuesState{Version: 1, Values: append(all, v)}, "", "  ")
	if err != nil {
		return fmt.Errorf("vouched measurements: %w", err)
	}

	if err := atomicfile.Write(filepath.Join(dir, valuesFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("vouched measurements: %w", err)
	}

	return nil
}

// Newest returns the measurement of a runtime that stands on the newest
// packages; of equally new ones, that which was vouched for last. So a lock of
// earlier packages, which is as well signed, takes nobody back by being measured
// once more.
func Newest(all []Value, runtime string) (newest Value, ok bool) {
	for _, v := range all { // oldest first
		if v.Runtime == runtime && (!ok || !v.IndexDate.Before(newest.IndexDate)) {
			newest, ok = v, true
		}
	}
	return newest, ok
}

// Read returns the measurements of the owner's folder, oldest first; none
// if there is no such file. A file that can't be read strictly is an error:
// nothing is vouched for by accident.
func Read(dir string) ([]Value, error) {
	b, err := atomicfile.Read(filepath.Join(dir, valuesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}

	var s valuesState
	if err == nil {
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.DisallowUnknownFields()
		if err = d.Decode(&s); err != nil {
			err = fmt.Errorf("it is damaged: %w", problem.NotJSON(err))
		} else if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("it is damaged: there is text after its end")
		}
	}

	if err == nil && s.Version != 1 {
		err = fmt.Errorf("version %d: want 1", s.Version)
	}

	if err != nil {
		return nil, problem.New(problem.Invalid, ruleVouchedFile, "%s: %w", filepath.Join(dir, valuesFile), err).
			Fix("repair or remove it, then measure again: cupel runtime measure NAME")
	}

	return s.Values, nil
}
