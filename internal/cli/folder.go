package cli

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

// The owner's folder holds a private key. Where it is comes from the environment, and
// an environment may say nothing (cron, systemd) or another user's home (sudo).

// defaultConfig is the owner's folder where no flag names one; empty if nothing says
// where that is.
func (g *globals) defaultConfig() string {
	if dir := g.env("CUPEL_CONFIG"); dir != "" {
		return dir
	}
	if dir := g.env("XDG_CONFIG_HOME"); filepath.IsAbs(dir) { // others are ignored, by the XDG Base Directory Specification
		return filepath.Join(dir, "cupel")
	}
	if home := g.env("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".config", "cupel")
	}
	return ""
}

// folder is the owner's folder, or says why there is none.
func (g *globals) folder() (string, error) {
	if g.config == "" {
		return "", problem.New(problem.Invalid, ruleNoHome, "nothing says where the owner's folder, with the private key, is: HOME is %s", quotedOr(g.env("HOME"), "not set")).
			Want("the home of a user").
			Fix("set HOME, or name the folder with --config or CUPEL_CONFIG")
	}

	if g.named {
		g.tellOthersFolder()
		return g.config, nil
	}

	if home := g.env("HOME"); g.env("XDG_CONFIG_HOME") == "" {
		if info, err := os.Stat(home); err != nil || !info.IsDir() {
			return "", problem.New(problem.Invalid, ruleNoHome, "nothing says where the owner's folder, with the private key, is: HOME is %q, which is no folder", home).
				Want("the home of a user").
				Fix("set HOME, or name the folder with --config or CUPEL_CONFIG")
		}
	}

	if dir, uid := othersFolder(g.config); dir != "" {
		return "", problem.New(problem.Denied, ruleOthersHome, "root would write into %s, which is in the home of user %d, and that user could then read nothing of it", g.config, uid).
			Want("each user's files in that user's home").
			Fix("run it as that user, without sudo; or name root's own folder: --config /root/.config/cupel (or that one, if you mean it)")
	}

	if home := g.env("HOME"); home != "" && strings.HasPrefix(g.config, home+"/") {
		g.tellOthersHome(home)
	}

	return g.config, nil
}

// tellOthersHome says that a folder which is root's already lies in another user's home:
// what is in it is another owner's than that user's.
func (g *globals) tellOthersHome(home string) {
	dir, uid := othersFolder(home)
	if dir == "" || g.toldFolder || g.completing {
		return
	}

	g.toldFolder = true
	g.warnf("The owner here is root: its key is in %s, in the home of user %d, who can't use it. For that user's own run it without sudo; for root's elsewhere: --config DIR", g.config, uid)
}

// tellOthersFolder says that root writes into another user's folder, which it was told to.
func (g *globals) tellOthersFolder() {
	if g.toldFolder {
		return
	}
	g.toldFolder = true
	if dir, uid := othersFolder(g.config); dir != "" {
		g.warnf("What root writes into %s is root's, and %s is user %d's, who may not be able to read it: chown -R %d %s", g.config, dir, uid, uid, g.config)
	}
}

// othersFolder tells whose a folder is, if root is to write there and it is another's.
// Of one that isn't there yet the nearest above it counts.
func othersFolder(path string) (dir string, uid uint32) {
	if os.Geteuid() != 0 {
		return "", 0
	}

	abs, err := filepath.Abs(path)
	if err != nil {
		return "", 0
	}

	for dir = abs; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil && dir != "/" {
			continue
		}

		if err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
				return dir, st.Uid
			}
		}
		return "", 0
	}
}

func quotedOr(s, none string) string {
	if s == "" {
		return none
	}
	return "\"" + s + "\", a relative name"
}

// ownerDir opens the owner's folder.
func (g *globals) ownerDir() (*home.Dir, error) {
	path, err := g.folder()
	if err != nil {
		return nil, err
	}
	return home.Open(path)
}
