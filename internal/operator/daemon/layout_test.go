package daemon

import (
	"os"
	"testing"
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
	if err := os.WriteFile(l.path("cas.uid"), []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if uid, err := l.casUser(); err == nil {
		t.Errorf("the CAS would run as user %d", uid)
	}
}
