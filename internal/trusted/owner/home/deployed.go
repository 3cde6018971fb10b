package home

import (
	"cmp"
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
)

// appsFile holds under which session each app was deployed.
const appsFile = "apps.json"

// DeployedApp is what an owner remembers of an app that they deployed: an operator who
// says that it runs another session is found out by it.
type DeployedApp struct {
	Session ident.SessionName `json:"session"`
	// Granted is what the app's grants call it, where it is not kept under that name:
	// two sessions' names may make the same.
	Granted ident.AppRef `json:"granted,omitempty"`
	// Also is what the manager calls the app besides: its word, which counts only where
	// no other app here is called so.
	Also []ident.AppRef `json:"also,omitempty"`
	// CAS is where its session is, and Grants are those by which the manager could run it:
	// of its newest deployment, and of those before that didn't end well since one did.
	CAS    string           `json:"cas,omitempty"`
	Grants []owners.GrantID `json:"grants,omitempty"`
	At     time.Time        `json:"at"`
}

// Is reports whether that is the app's id at the manager, or what that calls it besides.
func (a DeployedApp) Is(called ident.AppRef) bool { return slices.Contains(a.Also, called) }

// Called is what the manager calls an app that is kept under a name.
func (a DeployedApp) Called(name ident.AppRef) ident.AppRef {
	if len(a.Also) > 1 { // its name there, and its id
		return a.Also[0]
	}
	return name
}

// Place is where an app was deployed: the address of a provider, or the state folder of a
// manager on this machine.
type Place string

// Deployed are the apps, by the place where they were deployed and by what their grants
// call them. One whose name another session's app has already is kept by the manager's
// name for it.
type Deployed map[Place]map[ident.AppRef]DeployedApp

// Names are what an app is called where it was deployed.
type Names struct {
	Granted ident.AppRef // by its grants
	Called  ident.AppRef // by the manager
	ID      ident.AppRef // its id at the manager
	// Chosen says that its owner gave it the name Granted, and means this app by it from
	// now on.
	Chosen bool
}

// Note remembers a deployment. An app stays under the name that it had. Note returns false
// where both of its names are another session's app here: nothing is changed then.
func (d Deployed) Note(place Place, as Names, app DeployedApp) bool {
	name := as.Granted
	before := d.name(place, as.ID)
	known := before != "" && d[place][before].Session == app.Session
	switch {
	case as.Chosen || d.free(place, as.Granted, app.Session) && !known:
	case known:
		name = before
	case d.free(place, as.Called, app.Session):
		name = as.Called
	default:
		return false
	}

	if d[place] == nil {
		d[place] = map[ident.AppRef]DeployedApp{}
	}
	if known {
		delete(d[place], before)
	}
	delete(d[place], name)
	if name != as.Granted {
		app.Granted = as.Granted
	}
	for _, also := range []ident.AppRef{as.Called, as.ID} {
		if also != "" && also != name && d.name(place, also) == "" {
			app.Also = append(app.Also, also)
		}
	}
	d[place][name] = app
	return true
}

// free says that no other session's app has the name.
func (d Deployed) free(place Place, name ident.AppRef, session ident.SessionName) bool {
	_, app, known := d.At(place, name)
	return !known || app.Session == session
}

// Same reports whether all of these lead to one app of a place, of which something is known.
func (d Deployed) Same(place Place, called ...ident.AppRef) bool {
	name := d.name(place, called[0])
	return name != "" && !slices.ContainsFunc(called, func(c ident.AppRef) bool { return d.name(place, c) != name })
}

// At returns an app of a place by the name under which it is kept, or else by what the
// manager calls it besides, and what its grants call it.
func (d Deployed) At(place Place, called ident.AppRef) (granted ident.AppRef, app DeployedApp, known bool) {
	name := d.name(place, called)
	app, known = d[place][name]
	return cmp.Or(app.Granted, name), app, known
}

// Only returns the one app of a place that runs a session: what the manager calls it, and
// what its grants do; false where there is none, or more.
func (d Deployed) Only(place Place, session ident.SessionName) (called, granted ident.AppRef, one bool) {
	found := 0
	for name, app := range d[place] {
		if app.Session == session {
			called = app.Called(name)
			granted = cmp.Or(app.Granted, name)
			found++
		}
	}

	return called, granted, found == 1
}

// Settle keeps that of an app's grants that one alone is left; the zero one is none.
func (d Deployed) Settle(place Place, called ident.AppRef, grant owners.GrantID) {
	name := d.name(place, called)
	app, known := d[place][name]
	if !known || !slices.Contains(app.Grants, grant) {
		return
	}

	app.Grants = []owners.GrantID{grant}
	d[place][name] = app
}

// Forget forgets an app of a place, if it is known there.
func (d Deployed) Forget(place Place, called ident.AppRef) { delete(d[place], d.name(place, called)) }

// name is under which one an app is kept; empty: under none.
func (d Deployed) name(place Place, called ident.AppRef) ident.AppRef {
	if _, known := d[place][called]; known {
		return called
	}

	for name, app := range d[place] {
		if slices.Contains(app.Also, called) {
			return name
		}
	}

	return ""
}

// Deployed returns the apps that were deployed.
func (d *Dir) Deployed() (Deployed, error) {
	return load[Deployed](d, appsFile, "deploy your apps again; until then say which session you mean with `cupel verify APP --session SESSION`")
}

// UpdateDeployed changes them; an error of change leaves them as they were.
func (d *Dir) UpdateDeployed(ctx context.Context, change func(Deployed) error) error {
	return update(ctx, d, appsFile, d.Deployed, change)
}
