package owner_test

import (
	"testing"

	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/owner"
)

// TestDeployed: two sessions whose names make the same app name are two apps, and neither
// is ever taken for the other, unless its owner gives it the name.
func TestDeployed(t *testing.T) {
	all := owner.Deployed{}
	at := func(called, granted string, session ident.SessionName) {
		t.Helper()
		got, app, known := all.At("here", called)
		if got != granted || app.Session != session || known != (session != "") {
			t.Errorf("%s is %q of session %q (%v): want %q of %q", called, got, app.Session, known, granted, session)
		}
	}
	note := func(session ident.SessionName, granted string, chosen bool, called, id string) bool {
		return all.Note("here", granted, called, id, chosen, owner.DeployedApp{Session: session})
	}

	note("web", "web", false, "web", "app-1")
	note("WEB", "web", false, "web-2", "app-2")
	at("web", "web", "web")
	at("app-1", "web", "web")
	at("web-2", "web", "WEB")
	at("app-2", "web", "WEB")

	// Both are deployed again.
	note("WEB", "web", false, "web-2", "app-2")
	note("web", "web", false, "web", "app-1")
	at("web", "web", "web")
	at("web-2", "web", "WEB")
	at("app-2", "web", "WEB")

	// A manager that calls one as the other is not believed.
	if note("WEB", "web", false, "web", "app-1") {
		t.Error("another session's app was overwritten")
	}
	at("web", "web", "web")
	at("web-2", "web", "WEB")

	// Its owner may give the name to the other, and an app that is gone has none.
	note("WEB", "web", true, "web", "app-1")
	at("web", "web", "WEB")
	all.Forget("here", "app-2")
	all.Forget("here", "nothing")
	all.Forget("there", "web")
	at("web-2", "", "")
	at("web", "web", "WEB")
}

// TestDeployedAgain: an app is kept once, whatever was removed and deployed again meanwhile,
// and of an app that ended elsewhere nobody's name goes over in silence.
func TestDeployedAgain(t *testing.T) {
	all := owner.Deployed{}
	note := func(session ident.SessionName, called, id string) bool {
		return all.Note("here", "web", called, id, false, owner.DeployedApp{Session: session})
	}
	note("web", "web", "app-1")
	note("WEB", "web-2", "app-2")
	all.Forget("here", "app-1")
	if !note("WEB", "web-2", "app-2") || !note("web", "web", "app-3") {
		t.Error("not remembered")
	}
	for called, want := range map[string]ident.SessionName{"web": "web", "web-2": "WEB", "app-2": "WEB", "app-3": "web"} {
		if _, app, _ := all.At("here", called); app.Session != want {
			t.Errorf("%s is of session %q, want %q", called, app.Session, want)
		}
	}
	all.Forget("here", "app-2")
	if len(all["here"]) != 1 {
		t.Errorf("what is gone is still there: %v", all["here"])
	}

	if note("WEB", "web", "app-9") || len(all["here"]) != 1 {
		t.Errorf("a manager that calls WEB's app web: %v", all["here"])
	}
}
