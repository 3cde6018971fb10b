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
	note := func(session ident.SessionName, granted string, chosen bool, also ...string) bool {
		return all.Note("here", granted, chosen, owner.DeployedApp{Session: session, Also: also})
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
