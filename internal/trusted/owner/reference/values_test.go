package reference

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

func TestAdd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "owner")
	if all, err := Read(dir); err != nil || len(all) != 0 {
		t.Fatalf("Read of nothing: %v, %v", all, err)
	}
	at := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	a := Value{Measurement: ident.Measurement{1}, Runtime: "python", IndexDate: at, At: at}
	b := Value{Measurement: ident.Measurement{2}, Runtime: "puller", IndexDate: at, At: at}
	renewed := a
	renewed.At = at.Add(time.Hour)
	for _, v := range []Value{a, b, renewed} {
		if err := Add(dir, v); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Value{b, renewed}, got); d != "" {
		t.Errorf("vouched (-want +got):\n%s", d)
	}
}

// TestNewest: what decides is how new the packages are, not what was
// measured last; of equally new ones, the last.
func TestNewest(t *testing.T) {
	at := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	entry := func(m byte, runtime string, days int) Value {
		return Value{Measurement: ident.Measurement{m}, Runtime: runtime, IndexDate: at.AddDate(0, 0, days)}
	}
	for name, c := range map[string]struct {
		all  []Value
		want byte // 0 is none
	}{
		"none":                    {nil, 0},
		"of another runtime":      {[]Value{entry(1, "node", 0)}, 0},
		"the newer, last":         {[]Value{entry(1, "python", 0), entry(2, "python", 1), entry(3, "node", 2)}, 2},
		"the older measured last": {[]Value{entry(2, "python", 1), entry(1, "python", 0)}, 2},
		"another launcher":        {[]Value{entry(1, "python", 0), entry(2, "python", 0)}, 2},
	} {
		got, ok := Newest(c.all, "python")
		if ok != (c.want != 0) || got.Measurement != (ident.Measurement{c.want}) {
			t.Errorf("%s: %v %v", name, got.Measurement, ok)
		}
	}
}

func TestAddConcurrently(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := Add(dir, Value{Measurement: ident.Measurement{byte(i)}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all, err := Read(dir); err != nil || len(all) != 20 {
		t.Errorf("%d vouched for, %v: want all 20", len(all), err)
	}
}

func TestValuesFileIsStrict(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":       "{",
		"unknown field": `{"version":1,"vouched":[{"measurment":"00"}]}`,
		"newer version": `{"version":2,"vouched":[]}`,
		"short hash":    `{"version":1,"vouched":[{"measurement":"00"}]}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, valuesFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(dir); err == nil || problem.From(err).Rule != "vouched_file" {
			t.Errorf("%s: error %v, want vouched_file", name, err)
		}
	}
}
