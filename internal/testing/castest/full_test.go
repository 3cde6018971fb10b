package castest

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
)

// TestDiskFull: when the state's file system is full, creating and releasing are
// refused as unavailable, reading goes on, and nothing is half-made.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("cupel-castest", dir, "tmpfs", 0, "size=3m"); err != nil {
		need.Missing(t, "root: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	e := begin(t, Options{Dir: dir})
	o := e.Owner(t)
	made := map[string]ident.Digest{}
	big := fmt.Sprintf("secrets: [{name: big, kind: ascii, value: %q}]", strings.Repeat("x", 100_000))
	var err error
	for i := 0; err == nil && i < 100; i++ {
		name := fmt.Sprintf("s%d", i)
		var c owners.Created
		if _, err = o.Do(t.Context(), http.MethodPost, "/session", []byte(small(name, big)), &c); err == nil {
			made[name] = c.Hash
		}
	}
	refused(t, err, "disk_full")
	if problem.KindOf(err) != problem.Unavailable || len(made) == 0 {
		t.Fatalf("%d made, then %v", len(made), err)
	}
	check := func(o *Owner) {
		t.Helper()
		for name, hash := range made {
			var s owners.Session
			if _, err := o.Do(t.Context(), http.MethodGet, "/session/"+name, nil, &s); err != nil || s.Hash != hash {
				t.Errorf("%s: %v, %v", name, s.Hash, err)
			}
		}
		_, err := o.Do(t.Context(), http.MethodGet, fmt.Sprintf("/session/s%d", len(made)), nil, nil)
		refused(t, err, "session_unknown")
	}
	check(o)
	e.Stop()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=30m"); err != nil {
		t.Fatal(err)
	}
	again := begin(t, Options{Dir: dir})
	o2 := NewOwner(again.Owners, again.Identity, o.Key)
	o2.Root = again.Root()
	defer o2.Close()
	check(o2)
	create(t, o2, sessionText("room"))
	if err := again.know(o.Key.Hash); err != nil {
		t.Fatal(err)
	}
	mustRelease(t, again.Instance(t, "room", "client-app", appCode))
	verifyLog(t, again, o2)
}
