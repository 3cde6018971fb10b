package daemon

import (
	"errors"
	"os"
	"testing"

	"cupel.dev/cupel/internal/testing/need"
)

// TestCASUser: a number that nobody else gets, kept with the folder.
func TestCASUser(t *testing.T) {
	l := layout{dir: t.TempDir(), id: "ffffffff"}
	uid, err := l.casUser()
	if err != nil || uid < firstCASUser || uid >= firstCASUser+casUsers {
		t.Fatalf("user %d, %v", uid, err)
	}
	l.id = "00000000" // the folder was moved
	if again, err := l.casUser(); err != nil || again != uid {
		t.Errorf("user %d, then %d, %v", uid, again, err)
	}

	// A damaged file never makes the CAS run as a user that is somebody's.
	for _, text := range []string{"0\n", "", "x"} {
		if err := os.WriteFile(l.path("cas.uid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if uid, err := l.casUser(); err != nil || uid < firstCASUser || uid >= firstCASUser+casUsers {
			t.Errorf("%q: user %d, %v", text, uid, err)
		}
	}

	// Where there is a CAS already, it is the owner of its folder.
	need.Root(t)
	if err := errors.Join(os.Mkdir(l.path("cas"), 0o700), os.Chown(l.path("cas"), firstCASUser+99, -1), os.Remove(l.path("cas.uid"))); err != nil {
		t.Fatal(err)
	}
	if uid, err := l.casUser(); err != nil || uid != firstCASUser+99 {
		t.Errorf("user %d, %v; want the owner of the folder", uid, err)
	}
}
