package cli

import (
	"context"
	"path/filepath"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

// place is where this command's apps are: the address of a provider, or the state folder
// of this machine's manager, by whatever link or relative name it was given.
func (g *globals) place() home.Place {
	if g.provider == "" {
		folder, _ := atomicfile.Follow(g.givenState())
		return home.Place(folder)
	}

	if addr, err := providerAddress(g.provider); err == nil {
		return home.Place(addr)
	}
	return home.Place(g.provider)
}

// givenState is the state folder's absolute name, with the links that it was given by.
func (g *globals) givenState() string {
	if abs, err := filepath.Abs(g.state); err == nil {
		return abs
	}
	return g.state
}

// deployed are the apps that the owner deployed, those of this place under its one name.
func (g *globals) deployed(dir *home.Dir) (home.Deployed, error) {
	all, err := dir.Deployed()
	g.gather(all)
	return all, err
}

// updateDeployed changes them as deployed returns them.
func (g *globals) updateDeployed(ctx context.Context, dir *home.Dir, change func(home.Deployed) error) error {
	return dir.UpdateDeployed(ctx, func(all home.Deployed) error {
		g.gather(all)
		return change(all)
	})
}

// gather brings what was kept under the link that the state folder is given by to the
// folder's own name. Of two apps that are called the same the one deployed last counts.
func (g *globals) gather(all home.Deployed) {
	place, link := g.place(), home.Place(g.givenState())
	apps := all[link]
	if g.provider != "" || link == place || len(apps) == 0 {
		return
	}

	delete(all, link)
	if all[place] == nil {
		all[place] = map[ident.AppRef]home.DeployedApp{}
	}

	for name, app := range apps {
		if has, known := all[place][name]; !known || has.At.Before(app.At) {
			all[place][name] = app
		}
	}
}
