package cas_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
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

// TestLogEntriesAreSmall: what a stranger does in a small request leaves a small
// entry, for anybody reads the log, and it is read at each start.
func TestLogEntriesAreSmall(t *testing.T) {
	w := newWorld(t)
	var text strings.Builder
	text.WriteString("version: \"0.3\"\nname: s\nimages: [{name: i}]\nservices:\n")
	many := services{}
	for i := range 33 {
		name := ident.ServiceName(fmt.Sprintf("%s-%d", strings.Repeat("a", 100), i))
		fmt.Fprintf(&text, "- {name: %s, image_name: i, mrenclaves: [%s], command: a}\n", name, strings.Repeat("ab", 32))
		many[name] = owners.GrantedService{Instances: 1}
	}
	w.put(text.String())
	_, err := w.MakeGrant(t.Context(), w.owner, owners.NewGrant{Version: 1, Session: "s", App: "x", Services: many})
	rule(t, err, "grant_services")
	one := ident.ServiceName(strings.Repeat("a", 100) + "-32")
	few := maps.Clone(many)
	delete(few, one)
	made := w.submit(w.owner, "s", few)
	_, err = w.ChangeGrant(t.Context(), w.owner, made.Grant.ID, owners.GrantChange{Version: 1, Services: services{one: {Instances: 1}}})
	rule(t, err, "grant_services")
	if _, err := w.ChangeGrant(t.Context(), w.owner, made.Grant.ID, owners.GrantChange{Version: 1, Services: few}); err != nil {
		t.Fatal(err)
	}
	entries, _, err := w.Log(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if b, err := json.Marshal(e); err != nil || len(b) > 2000 {
			t.Errorf("%s takes %d bytes, %v", e.Event, len(b), err)
		}
	}
	if last := entries[len(entries)-1]; !strings.HasSuffix(last.Detail["services"], " bytes in all)") || last.Detail["grant"] != made.Grant.ID.String() {
		t.Errorf("%v", last.Detail)
	}
}
