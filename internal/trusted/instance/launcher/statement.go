package launcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

const (
	// statementPath is where the app says what it stored in its volumes. An image
	// whose program says so gives the folder to its user.
	statementPath = "/run/cupel/statement.json"
	maxStatement  = 4 << 10
)

// statement is what the app, whose processes are gone, says of what it stored;
// nil: nothing. Only a file of this run counts: one in a volume may be of an
// earlier one.
func (v *appView) statement() (*owners.Statement, error) {
	folder := v.folders[statementPath]
	if folder == "" {
		return nil, nil
	}

	fd, err := v.open(path.Join(folder, path.Base(statementPath)), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, unix.RESOLVE_NO_XDEV)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EXDEV):
		return nil, nil
	case err != nil:
		return nil, badStatement(fmt.Sprintf("it can't be opened: %v", err))
	}

	f := os.NewFile(uintptr(fd), statementPath)
	defer f.Close()

	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, badStatement("it is no regular file")
	}

	b, err := io.ReadAll(io.LimitReader(f, maxStatement+1))
	switch {
	case err != nil:
		return nil, badStatement("it can't be read")
	case len(b) > maxStatement:
		return nil, badStatement(fmt.Sprintf("it has more than %d bytes", maxStatement))
	}
	return parseStatement(b)
}

func badStatement(why string) error {
	return problem.New(problem.Invalid, problem.RuleStatement, "the app's %s: %s", statementPath, why).
		Want(`a regular file with {"commit": 40 or 64 hex digits, "pinned": true or false, "follows": "yes", "no" or "unknown"}`).
		Fix("mend the program that writes it, or remove it before the program ends; nothing was committed")
}

// parseStatement reads a statement that has all fields, each once, and nothing
// else.
func parseStatement(b []byte) (*owners.Statement, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, badStatement("it is no JSON object")
	}

	var s owners.Statement
	fields := map[string]any{"commit": &s.Commit, "pinned": &s.Pinned, "follows": &s.Follows}
	for d.More() {
		t, err := d.Token()
		name, _ := t.(string)
		field, ok := fields[name]
		if err != nil || !ok {
			return nil, badStatement("it has a field twice or one that is unknown")
		}

		delete(fields, name)
		var raw json.RawMessage
		if d.Decode(&raw) != nil || string(raw) == "null" || json.Unmarshal(raw, field) != nil {
			return nil, badStatement(fmt.Sprintf("its field %q has another type", name))
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, badStatement("it is no JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, badStatement("something follows the object")
	}

	switch {
	case len(fields) > 0:
		return nil, badStatement("a field is missing")
	case !owners.IsCommit(s.Commit):
		return nil, badStatement("its commit is no commit's id")
	case !s.Follows.Known():
		return nil, badStatement("its follows is another word")
	}
	return &s, nil
}
