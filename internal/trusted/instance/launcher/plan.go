package launcher

import (
	"path"
	"strings"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/sealed"
	"cupel.dev/cupel/internal/trusted/wire"
)

// plan is what stage 2 needs to become the app. It travels through a pipe,
// since it holds secrets; it holds no key of volume, instance or CAS.
type plan struct {
	User    appUser      `json:"user"`
	Argv    []string     `json:"argv"`
	Env     []string     `json:"env"`
	Cwd     string       `json:"cwd"`
	Files   []wire.File  `json:"files"`
	Volumes []planVolume `json:"volumes"`
}

type planVolume struct {
	Dir  string `json:"dir"`  // in the staging directory
	Path string `json:"path"` // in the app's root
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// newPlan joins what the image says with what the CAS released: the release
// goes first, the image fills in what it leaves open.
func newPlan(image Command, r *wire.ReleaseReply, user appUser) (*plan, error) {
	p := &plan{
		User:  user,
		Argv:  r.Argv,
		Cwd:   r.Cwd,
		Files: r.Files,
		Env:   mergeEnv([]string{defaultPath, "HOME=" + user.Home}, mergeEnv(image.Env, r.Env)),
	}
	if len(p.Argv) == 0 {
		p.Argv = image.Argv
	}
	if p.Cwd == "" {
		p.Cwd = image.Cwd
	}

	if len(p.Argv) == 0 || p.Argv[0] == "" {
		return nil, problem.New(problem.Invalid, RuleNotFound, "neither the session nor the image names a command").
			Fix("give the service a command: in the session")
	}
	return p, p.check(r.Volumes)
}

// check refuses what can't be placed in the app's root.
func (p *plan) check(volumes []wire.Volume) error {
	bad := func(what, s string) error {
		return problem.New(problem.Invalid, ruleReleaseContent, "%s %q", what, clip(s)).
			Want("an absolute, clean path outside of /proc, /sys and /dev; no zero bytes")
	}
	if !strings.HasPrefix(p.Cwd, "/") {
		return bad("working directory", p.Cwd)
	}

	for _, a := range p.Argv {
		if strings.ContainsRune(a, 0) {
			return bad("argument of the command", "(not shown)")
		}
	}

	for _, e := range p.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			return bad("environment variable", name)
		}
	}

	seen := map[string]bool{}
	for _, f := range p.Files {
		if !placeable(f.Path) || f.Mode&^0o777 != 0 || seen[f.Path] {
			return bad("file", f.Path)
		}
		seen[f.Path] = true
	}

	for _, v := range volumes {
		switch {
		case !placeable(v.Path) || seen[v.Path]:
			return bad("volume at", v.Path)
		case len(v.Key) == 0:
			return problem.New(problem.Denied, ruleVolumeReset, "volume %s was started afresh, or given another key, since this instance was released", v.Name).
				Fix("start the instance again: it begins with the newest state")
		case len(v.Key) != sealed.KeySize || len(v.NextKey) != 0 && len(v.NextKey) != sealed.KeySize:
			return problem.New(problem.Internal, ruleReleaseContent, "volume %s has keys of %d and %d bytes", v.Name, len(v.Key), len(v.NextKey))
		case v.Access != owners.ReadWrite && v.Access != owners.ReadOnly:
			return problem.New(problem.Internal, ruleReleaseContent, "volume %s has access %q", v.Name, clip(string(v.Access)))
		}
		seen[v.Path] = true
	}
	return nil
}

func placeable(p string) bool {
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
		return false
	}

	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			return false
		}
	}
	return true
}
