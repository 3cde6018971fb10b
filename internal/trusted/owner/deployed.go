package owner

import (
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/internal/trusted/ident"
)

// appsFile holds under which session each app was deployed.
const appsFile = "apps.json"

// DeployedApp is what an owner remembers of an app that they deployed: an operator who
// says that it runs another session is found out by it.
type DeployedApp struct {
	Session ident.SessionName `json:"session"`
	// Also is what the manager calls the app besides: its word, which counts only where
	// no other app here is called so.
	Also []string  `json:"also,omitempty"`
	At   time.Time `json:"at"`
}

// Deployed are the apps, by the place where they were deployed (the address of a
// provider, or the state folder of a manager on this machine) and by what their grants
// call them.
type Deployed map[string]map[string]DeployedApp

// Note remembers a deployment.
func (d Deployed) Note(place, name string, app DeployedApp) {
	if d[place] == nil {
		d[place] = map[string]DeployedApp{}
	}
	app.Also = slices.DeleteFunc(app.Also, func(also string) bool {
		named, _, taken := d.At(place, also)
		return also == "" || also == name || taken && named != name
	})
	d[place][name] = app
}

// At returns an app of a place by what its grants call it, or else by what the manager
// does, and what its grants call it.
func (d Deployed) At(place, called string) (name string, app DeployedApp, known bool) {
	if app, known = d[place][called]; known {
		return called, app, true
	}
	for name, app := range d[place] {
		if slices.Contains(app.Also, called) {
			return name, app, true
		}
	}
	return "", DeployedApp{}, false
}

// Deployed returns the apps that were deployed.
func (d *Dir) Deployed() (Deployed, error) {
	return load[Deployed](d, appsFile, "deploy your apps again; until then say which session you mean with `cupel verify APP --session SESSION`")
}

// UpdateDeployed changes them; an error of change leaves them as they were.
func (d *Dir) UpdateDeployed(ctx context.Context, change func(Deployed) error) error {
	return update(ctx, d, appsFile, d.Deployed, change)
}
