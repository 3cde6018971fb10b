package daemon

import (
	"bytes"
	"strings"
	"testing"
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
		code := Main(t.Context(), strings.Fields(args), strings.NewReader(""), &bytes.Buffer{}, &errw, func(string) string { return "" })
		if code == 0 || !strings.HasPrefix(errw.String(), want) || strings.Contains(errw.String(), "strconv") {
			t.Errorf("%s: code %d, %s", args, code, &errw)
		}
	}
}
