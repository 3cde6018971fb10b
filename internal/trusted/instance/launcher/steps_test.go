package launcher

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/internal/trusted/wire"
)

// This file has the steps of tests that play with a running instance.

// output is what a process prints; it can be read meanwhile.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) Len() int { return len(o.String()) }

// grant gives the instance a token.
func (s *sandbox) grant(token string) { s.env[3] = "CUPEL_GRANT=" + token }

// link puts a symbolic link into the image's root directory, to a directory of it.
func (s *sandbox) link(dir, name string) {
	must(s.t, os.MkdirAll(filepath.Join(s.rootfs, dir), 0o755))
	must(s.t, os.Symlink("/"+dir, filepath.Join(s.rootfs, name)))
}

// saysReady is what an app's script prints once its traps are set.
const saysReady = "ready\n"

// says waits until the app printed line.
func (s *sandbox) says(line string) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.out.String(), line); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("the app never printed %q: %s %s", line, &s.out, &s.errs)
		}
	}
}

// onCAS changes what the fake CAS does next.
func (s *sandbox) onCAS(change func(c *fakeCAS)) {
	s.cas.mu.Lock()
	defer s.cas.mu.Unlock()
	change(s.cas)
}

// until waits for a condition that is judged with the fake CAS held.
func (s *sandbox) until(what string, ok func(c *fakeCAS) bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s.cas.mu.Lock()
		done := ok(s.cas)
		s.cas.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("never %s: %s", what, &s.errs)
		}
	}
}

// errsSay waits for text on the standard error.
func (s *sandbox) errsSay(text string) {
	s.t.Helper()
	s.until("said "+text, func(*fakeCAS) bool { return strings.Contains(s.errs.String(), text) })
}

// phase waits until the instance reported p.
func (s *sandbox) phase(p wire.Phase) {
	s.t.Helper()
	for range 400 {
		s.host.mu.Lock()
		n := len(s.host.phases)
		reached := n > 0 && s.host.phases[n-1] == p
		s.host.mu.Unlock()
		if reached {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	s.t.Fatalf("never %s: %v\n%s", p, s.host.phases, &s.errs)
}
