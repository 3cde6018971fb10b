package castest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

// TestRefusedUploadsQuoteNothing puts a secret into each value of a session's text
// and uploads it: no answer of the CAS, refusal or warning, has it.
func TestRefusedUploadsQuoteNothing(t *testing.T) {
	const pasted = "ghp_R7kQ2mZx9LwT4vBn8sYd3cFh6jPa1gEu5iKo"
	e := begin(t, Options{})
	o := e.Owner(t)
	refusals := 0
	lines := strings.Split(string(sessionText("quoted")), "\n")
	for i, line := range lines {
		key, _, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		for _, value := range []string{pasted, `"` + pasted + ` x"`, "!" + pasted, "*" + pasted, `"` + pasted, "{" + pasted + "}", "[" + pasted + "]", "$$SCONE::" + pasted + "$$", "$" + pasted} {
			text := strings.Join(append(append(append([]string{}, lines[:i]...), key+": "+value), lines[i+1:]...), "\n")
			var created owners.Created
			_, err := o.Do(t.Context(), http.MethodPost, owners.PathSessions, []byte(text), &created)
			if err != nil {
				refusals++
			}
			b, jsonErr := json.Marshal([]any{problem.From(err), created.Warnings})
			if jsonErr != nil || strings.Contains(string(b), pasted) {
				t.Errorf("line %d, %s: %s\n%s", i+1, key, value, b)
			}
		}
	}
	if refusals < 50 {
		t.Errorf("only %d uploads were refused", refusals)
	}
}
