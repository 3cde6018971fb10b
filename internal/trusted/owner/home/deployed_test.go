package home_test

import (
	"slices"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

// TestDeployed: two sessions whose names make the same app name are two apps, and neither
// is ever taken for the other, unless its owner gives it the name.
func TestDeployed(t *testing.T) {
	all := home.Deployed{}
	at := func(called, granted ident.AppRef, session ident.SessionName) {
		t.Helper()
		got, app, known := all.At("here", called)
		if got != granted || app.Session != session || known != (session != "") {
			t.Errorf("%s is %q of session %q (%v): want %q of %q", called, got, app.Session, known, granted, session)
		}
	}
	note := func(session ident.SessionName, granted ident.AppRef, chosen bool, called, id ident.AppRef) bool {
		return all.Note("here", home.Names{Granted: granted, Called: called, ID: id, Chosen: chosen}, home.DeployedApp{Session: session})
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
	all := home.Deployed{}
	note := func(session ident.SessionName, called, id ident.AppRef) bool {
		return all.Note("here", home.Names{Granted: "web", Called: called, ID: id}, home.DeployedApp{Session: session})
	}
	note("web", "web", "app-1")
	note("WEB", "web-2", "app-2")
	all.Forget("here", "app-1")
	if !note("WEB", "web-2", "app-2") || !note("web", "web", "app-3") {
		t.Error("not remembered")
	}
	for called, want := range map[ident.AppRef]ident.SessionName{"web": "web", "web-2": "WEB", "app-2": "WEB", "app-3": "web"} {
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

// TestGrantsOfAnApp: the grants under which an app was deployed are its own alone, and one
// is left once a deployment ended well.
func TestGrantsOfAnApp(t *testing.T) {
	all := home.Deployed{}
	first, second := owners.GrantID{1}, owners.GrantID{2}
	all.Note("here", home.Names{Granted: "web", Called: "web-2", ID: "app-2"}, home.DeployedApp{Session: "WEB", Grants: []owners.GrantID{first, second}})
	all.Settle("here", "app-2", owners.GrantID{3}) // that it was never deployed under
	all.Settle("here", "app-9", second)
	if _, app, _ := all.At("here", "web"); len(app.Grants) != 2 || !app.Is("app-2") || app.Is("app-9") || app.Called("web") != "web-2" {
		t.Errorf("%+v", app)
	}
	if !all.Same("here", "web-2", "app-2") || all.Same("here", "app-9", "app-9") || all.Same("here", "web-2", "app-9") {
		t.Error("what is one app is two, or the other way round")
	}
	all.Settle("here", "app-2", second)
	if _, app, _ := all.At("here", "web"); !slices.Equal(app.Grants, []owners.GrantID{second}) {
		t.Errorf("%+v", app)
	}
	if called, granted, one := all.Only("here", "WEB"); called != "web-2" || granted != "web" || !one {
		t.Errorf("%s, %s, %v", called, granted, one)
	}
	all.Note("here", home.Names{Granted: "other", Called: "other", ID: "app-3", Chosen: true}, home.DeployedApp{Session: "WEB"})
	if _, _, one := all.Only("here", "WEB"); one {
		t.Error("one of two is the only one")
	}
}
