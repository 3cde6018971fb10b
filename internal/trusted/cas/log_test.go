package cas_test

import (
	"encoding/json"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/trusted/ident"
)

// TestLogTellsNoSessionHash: anybody may read the log, and a session's hash
// covers the values that its owner gave, which might be guessed with it.
func TestLogTellsNoSessionHash(t *testing.T) {
	w := newWorld(t)
	first := w.put(twoWriters("s"))
	second := w.put(strings.Replace(twoWriters("s"), "name: s\n", "name: s\npredecessor: "+first.String()+"\n", 1))
	w.mustAsk(1, "s", "a")
	w.restart()

	entries, _, err := w.Log(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	log, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []ident.Digest{first, second} {
		if strings.Contains(string(log), h.String()) {
			t.Errorf("the log tells the session hash %s:\n%s", h, log)
		}
		got, err := w.GetSession(t.Context(), w.owner, "s", &h)
		if err != nil || got.Hash != h {
			t.Errorf("version %s: %v", h, err)
		}
	}
}
