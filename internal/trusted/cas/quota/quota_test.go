package quota_test

import (
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/quota"
)

func TestSet(t *testing.T) {
	var l quota.Limits
	for _, bad := range []string{"", "key", "key-bytes", "key-bytes=", "key-bytes=-1", "key-bytes=0", "key-bytes=1T", "key-names=1", "all-bytes=1", "key-sessions=1K", "key-bytes=99999999999G"} {
		if err := l.Set(bad); problem.From(err).Rule != "quota" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := l.Set("key-bytes=256M, total-sessions=7"); err != nil {
		t.Fatal(err)
	}
	if err := l.Set("address-grants=5"); err != nil {
		t.Fatal(err)
	}
	if got := l.String(); got != "key-bytes=268435456,address-grants=5,total-sessions=7" {
		t.Error(got)
	}
}

// TestLimits: names go by sessions, and a key's own part has a reserve.
func TestLimits(t *testing.T) {
	var l quota.Limits
	if got := l.String(); got != "" {
		t.Errorf("the defaults differ from themselves: %s", got)
	}
	if err := l.Set("key-sessions=7,total-bytes=1600"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what      string
		got, want int64
	}{
		{"names", l.Limit(quota.PerKey, quota.Names), 70},
		{"bytes of all", l.Reserve(quota.InTotal, quota.Bytes, false), 1600},
		{"bytes of all, with what is kept for a key's own part", l.Reserve(quota.InTotal, quota.Bytes, true), 1700},
		{"a key's own part", l.Own(quota.Versions), 625},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", c.what, c.got, c.want)
		}
	}
}
