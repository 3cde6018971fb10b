package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

// TestPlace: a state folder is one place, however it is named; a provider's is its address.
func TestPlace(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	state, link := filepath.Join(dir, "state"), filepath.Join(dir, "link")
	if err := os.Mkdir(state, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("state", link); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for given, want := range map[string]home.Place{
		state: home.Place(state), link: home.Place(state), "link": home.Place(state), link + "/../link/": home.Place(state), "none": home.Place(filepath.Join(dir, "none")),
	} {
		if got := (&globals{state: given}).place(); got != want {
			t.Errorf("%s: %s, not %s", given, got, want)
		}
	}
	if got := (&globals{state: link, provider: "https://cloud.example"}).place(); got != "cloud.example:5000" {
		t.Error(got)
	}
}

// TestGather: what was kept under a link is the folder's own, the newer of two of a name.
func TestGather(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	old, late := time.Unix(1, 0), time.Unix(2, 0)
	kept := func() home.Deployed {
		return home.Deployed{
			home.Place(dir):  {"a": {Session: "new", At: late}, "b": {Session: "old", At: old}},
			home.Place(link): {"a": {Session: "old", At: old}, "b": {Session: "new", At: late}, "c": {Session: "new", At: old}},
			"host:500":       {"c": {Session: "other"}},
		}
	}

	all := kept()
	g := &globals{state: link}
	g.gather(all)
	for _, name := range []ident.AppRef{"a", "b", "c"} {
		if _, app, _ := all.At(g.place(), name); app.Session != "new" {
			t.Errorf("%s: %+v", name, app)
		}
	}
	if len(all) != 2 {
		t.Error(all)
	}

	for _, other := range []*globals{{state: dir}, {state: link, provider: "host:500"}} {
		all := kept()
		if other.gather(all); len(all) != 3 {
			t.Error(other, all)
		}
	}
}

// TestPlaceOfAFolderThatIsAway: a link leads to the same place while what is at its end
// isn't there, as where its disk isn't mounted.
func TestPlaceOfAFolderThatIsAway(t *testing.T) {
	d := t.TempDir()
	real, link := filepath.Join(d, "disk", "cupel"), filepath.Join(d, "cupel")
	if err := os.MkdirAll(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	g := &globals{state: link}
	before := g.place()
	if err := os.RemoveAll(filepath.Join(d, "disk", "cupel")); err != nil {
		t.Fatal(err)
	}
	if after := g.place(); after != before {
		t.Errorf("place was %s, and is %s while the folder isn't there", before, after)
	}
}
