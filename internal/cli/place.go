package cli

import (
	"context"
	"os"
	"path/filepath"

	"cupel.dev/cupel/internal/trusted/owner"
)

// place is where this command's apps are: the address of a provider, or the state folder
// of this machine's manager, by whatever link or relative name it was given.
func (g *globals) place() string {
	if g.provider == "" {
		return withoutLinks(g.givenState())
	}
	if addr, err := providerAddress(g.provider); err == nil {
		return addr
	}
	return g.provider
}

// withoutLinks is the name of a folder that a path leads to, also while it isn't there, as
// one whose disk isn't mounted.
func withoutLinks(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if target, err := os.Readlink(path); err == nil && filepath.IsAbs(target) {
		path = target
	} else if err == nil {
		path = filepath.Join(filepath.Dir(path), target)
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(parent, filepath.Base(path))
	}
	return path
}

// givenState is the state folder's absolute name, with the links that it was given by.
func (g *globals) givenState() string {
	if abs, err := filepath.Abs(g.state); err == nil {
		return abs
	}
	return g.state
}

// deployed are the apps that the owner deployed, those of this place under its one name.
func (g *globals) deployed(dir *owner.Dir) (owner.Deployed, error) {
	all, err := dir.Deployed()
	g.gather(all)
	return all, err
}

// updateDeployed changes them as deployed returns them.
func (g *globals) updateDeployed(ctx context.Context, dir *owner.Dir, change func(owner.Deployed) error) error {
	return dir.UpdateDeployed(ctx, func(all owner.Deployed) error {
		g.gather(all)
		return change(all)
	})
}

// gather brings what was kept under the link that the state folder is given by to the
// folder's own name. Of two apps that are called the same the one deployed last counts.
func (g *globals) gather(all owner.Deployed) {
	place, link := g.place(), g.givenState()
	apps := all[link]
	if g.provider != "" || link == place || len(apps) == 0 {
		return
	}
	delete(all, link)
	if all[place] == nil {
		all[place] = map[string]owner.DeployedApp{}
	}
	for name, app := range apps {
		if has, known := all[place][name]; !known || has.At.Before(app.At) {
			all[place][name] = app
		}
	}
}
