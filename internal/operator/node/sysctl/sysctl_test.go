package sysctl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func keeper(t *testing.T) Keeper {
	t.Helper()
	k := Keeper{Dir: filepath.Join(t.TempDir(), "kept"), Proc: t.TempDir()}
	for name, value := range map[string]string{"net/ip_forward": "0", "net/conf/all/redirects": "1"} {
		path := filepath.Join(k.Proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func (k Keeper) value(t *testing.T, name Setting) string {
	t.Helper()
	v, err := k.read(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLastHolderPutsBack(t *testing.T) {
	k := keeper(t)
	set := map[Setting]string{"net/ip_forward": "1"}
	for _, holder := range []Holder{"a", "b", "a"} {
		if _, err := k.Hold(holder, set, "net/conf/all/redirects"); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.write("net/conf/all/redirects", "0"); err != nil { // as the kernel does
		t.Fatal(err)
	}
	if err := k.Release("a"); err != nil {
		t.Fatal(err)
	}
	if got := k.value(t, "net/ip_forward"); got != "1" {
		t.Errorf("put back while b holds it: %s", got)
	}
	for range 2 {
		if err := k.Release("b"); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := k.value(t, "net/ip_forward"), k.value(t, "net/conf/all/redirects"); a != "0" || b != "1" {
		t.Errorf("after the last: %s, %s; want 0, 1", a, b)
	}
	if _, err := os.Stat(k.Dir); !os.IsNotExist(err) {
		t.Errorf("the folder stays: %v", err)
	}
}

func TestManyHolders(t *testing.T) {
	k := keeper(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			holder := Holder(fmt.Sprint(i))
			if _, err := k.Hold(holder, map[Setting]string{"net/ip_forward": "1"}); err != nil {
				t.Error(err)
			}
			if got := k.value(t, "net/ip_forward"); got != "1" {
				t.Errorf("held, and %q", got)
			}
			if err := k.Release(holder); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := k.value(t, "net/ip_forward"); got != "0" {
		t.Errorf("after all: %s", got)
	}
}

// TestLostRecord: what was found before the first change is known to each holder, so
// that it comes back although somebody removed the record meanwhile.
func TestLostRecord(t *testing.T) {
	k := keeper(t)
	set := map[Setting]string{"net/ip_forward": "1"}
	hold := func(holder Holder) map[Setting]string {
		t.Helper()
		found, err := k.Hold(holder, set)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	first := hold("a")
	if lost, err := k.Remember("a", first); lost || err != nil {
		t.Errorf("nothing was lost: %t, %v", lost, err)
	}
	if err := os.RemoveAll(k.Dir); err != nil {
		t.Fatal(err)
	}
	hold("b") // takes a's change for what was there
	if lost, err := k.Remember("a", first); !lost || err != nil {
		t.Errorf("the record was lost: %t, %v", lost, err)
	}
	for _, holder := range []Holder{"a", "b"} {
		if got := k.value(t, "net/ip_forward"); got != "1" {
			t.Errorf("before %s lets go: %s", holder, got)
		}
		if err := k.Release(holder); err != nil {
			t.Fatal(err)
		}
	}
	if got := k.value(t, "net/ip_forward"); got != "0" {
		t.Errorf("after the last: %s, want what was found", got)
	}
}

func TestHoldRefuses(t *testing.T) {
	k := keeper(t)
	if _, err := k.Hold("a", map[Setting]string{"no/such": "1"}); err == nil || !strings.Contains(err.Error(), "no/such") {
		t.Errorf("held a setting that is not there: %v", err)
	}
	if err := k.Release("a"); err != nil {
		t.Error(err)
	}
}
