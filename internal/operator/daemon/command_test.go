package daemon

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
)

// TestErrorsAsJSON: who asks for JSON gets an object, whichever command, and however
// wrong the call is; and nobody reads a library's words.
func TestErrorsAsJSON(t *testing.T) {
	for args, want := range map[string]string{
		"runtime build nope --state " + t.TempDir() + " -o json": `{"kind":"not_found","rule":"runtime_unknown"`,
		"-o json up --first-port=many":                           `{"kind":"invalid","rule":"usage"`,
		"-o json down surplus":                                   `{"kind":"`,
		"up --first-port=many":                                   "cupeld: usage: --first-port has a value that it can't have",
	} {
		var errw bytes.Buffer
		code := Main(t.Context(), strings.Fields(args), Caller{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &errw, Env: func(string) string { return "" }})
		if code == 0 || !strings.HasPrefix(errw.String(), want) || strings.Contains(errw.String(), "strconv") {
			t.Errorf("%s: code %d, %s", args, code, &errw)
		}
	}
}

// TestAnswersAsJSON: what a command did is an object to who asked for one, also of the
// commands that have little to say; and another form is refused, not taken for a table.
func TestAnswersAsJSON(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	for args, want := range map[string]string{
		"version":                 `{"version":"`,
		"install-service --print": `{"text":"# Made by cupel install-service`,
		"down":                    `{"stopped":""}`, // nothing in it is Cupel's
		"cleanup --yes":           `{"mounted":[],"removed":"` + dir + `"}`,
	} {
		stdout, stderr, code := cupeld(t, "cd /", append(strings.Fields(args), "--state", dir, "-o", "json")...)
		var answer map[string]any
		err := json.Unmarshal([]byte(stdout), &answer)
		again, _ := json.Marshal(answer) // in one order
		if code != 0 || err != nil || !strings.HasPrefix(string(again), want) || stderr != "" {
			t.Errorf("%s: code %d, %q, %q", args, code, stdout, stderr)
		}
		if _, stderr, code := cupeld(t, "cd /", append(strings.Fields(args), "--state", dir, "-o", "jsn")...); code != problem.Invalid.ExitCode() || !strings.Contains(stderr, "expected: table or json") {
			t.Errorf("%s -o jsn: code %d, %q", args, code, stderr)
		}
	}
}

// TestNoControlGroups: in a mount namespace without the machine's control groups, such
// as that of 'ip netns exec', each command says so, and how to start it.
func TestNoControlGroups(t *testing.T) {
	need.Root(t)
	const elsewhere = `exec unshare --mount bash -c 'mount -t tmpfs none /sys/fs/cgroup && exec -a cupeld "$0" "$@"' "$0" "$@"`
	o := upOptions(t)
	for _, args := range [][]string{upFlags(o), {"down", "--state", o.State}, {"cleanup", "--yes", "--state", o.State}} {
		_, stderr, code := cupeld(t, elsewhere, args...)
		if code < 2 || !strings.Contains(stderr, "nsenter --net=") || strings.Contains(stderr, "mend:     mount the control groups") {
			t.Errorf("%s: code %d, %q", args, code, stderr)
		}
	}
}
