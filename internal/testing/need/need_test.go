package need

import (
	"path/filepath"
	"testing"
)

// recorder is a test that writes down how it would have ended.
type recorder struct {
	testing.TB
	skipped, failed bool
}

func (*recorder) Helper()                 {}
func (r *recorder) Skip(...any)           { r.skipped = true }
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

func TestMissing(t *testing.T) {
	for _, c := range []struct {
		all             string
		skipped, failed bool
	}{{"", true, false}, {"1", false, true}} {
		t.Setenv("CUPEL_REQUIRE_ALL", c.all)
		for name, ask := range map[string]func(testing.TB){
			"program": func(t testing.TB) { Programs(t, "cupel-no-such-program") },
			"file":    func(t testing.TB) { File(t, filepath.Join("testdata", "none")) },
		} {
			r := &recorder{TB: t}
			if ask(r); r.skipped != c.skipped || r.failed != c.failed {
				t.Errorf("%s with CUPEL_REQUIRE_ALL=%q: skipped %t, failed %t", name, c.all, r.skipped, r.failed)
			}
		}
		r := &recorder{TB: t}
		if Programs(r, "go"); r.skipped || r.failed {
			t.Errorf("skipped %t, failed %t for what is there", r.skipped, r.failed)
		}
	}
}
