//go:build e2e

package faults

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/e2e/harness"
)

// TestDamagedRecord: the disk damages an instance's record while cupeld is dead. The
// next one has its place at the CAS at once: nobody waits until the rights of the lost
// one lapse, and the app's events say what follows.
func TestDamagedRecord(t *testing.T) {
	s := newStage(t, harness.Config{})
	s.Kill("cupeld", syscall.SIGKILL)
	records, err := filepath.Glob(filepath.Join(s.State, "node", "instances", "*.json"))
	if err != nil || len(records) == 0 {
		t.Fatalf("records %v, %v", records, err)
	}
	for _, record := range records { // the pull's too, which has ended
		if err := os.Truncate(record, 0); err != nil {
			t.Fatal(err)
		}
	}
	s.Up(nil, nil)
	s.Eventually(time.Minute, func() error { return s.owner.ExpectHealthy("steady", 1) })
	said := s.owner.MustRun("events", "steady")
	if !strings.Contains(said, "record_damaged") || !strings.Contains(said, "instance_restarting") {
		t.Errorf("the events don't say what happened:\n%s", said)
	}
	if strings.Contains(said, "grant_full") {
		t.Errorf("the next one waited for the place of the one that was lost:\n%s", said)
	}
	t.Log(said)
}
