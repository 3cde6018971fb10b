//go:build e2e

// Package volume holds the promise that an encrypted volume is what its last
// writer left, or nothing: storage that answers with anything else is refused,
// each time with its own message, and one instance at a time writes.
//
// The operator's storage is tampered with where it really lies: in the node's
// folder of snapshots.
package volume

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/internal/trusted/sealed"
)

const (
	session = "keeper"
	other   = "other"
)

// scene is the one world of this package's tests.
type scene struct {
	*harness.World
	owner *harness.Party
	port  string
	at    netip.AddrPort
}

func TestVolume(t *testing.T) {
	s := newScene(t)
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"tampered with", s.tampered}, {"too large", s.tooLarge}, {"two writers", s.twoWriters}, {"removed by the operator", s.removed},
	} {
		t.Run(part.name, func(t *testing.T) {
			whole := s.T
			s.T = t
			defer func() { s.T = whole }()
			part.test(t)
		})
	}
}

// newScene deploys one session twice, so that its volume has two generations,
// and another one once.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{World: harness.New(t, harness.Config{})}
	port := harness.FreePort(t)
	s.port, s.at = strconv.Itoa(int(port)), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	s.owner = s.Owner("owner")
	s.BuildRuntimes("puller", "python")
	s.owner.Vouch("puller", "python")
	s.owner.AttestCAS()
	s.push("first edition")
	s.owner.CreateSession(session, "app")
	s.owner.CreateSession(other, "app")
	s.deploy()
	s.owner.MustRun("deploy", other, "--memory", "256M", "--port", strconv.Itoa(int(harness.FreePort(t))))
	s.push("second edition")
	s.deploy()
	return s
}

// push makes an app that says message the repository's state.
func (s *scene) push(message string) {
	s.T.Helper()
	files := harness.ExampleApp(s.World)
	files["client-app.py"] = strings.ReplaceAll(files["client-app.py"], "Hello from inside", message)
	s.Git.Push("app", files)
}

func (s *scene) deploy() { s.owner.MustRun("deploy", session, "--memory", "256M", "--port", s.port) }

// generation is the newest one of the session's volume that the CAS knows.
func (s *scene) generation() (newest uint64) {
	s.T.Helper()
	for _, i := range s.owner.CASInstances(session) {
		for _, v := range i.Volumes {
			newest = max(newest, v.Generation)
		}
	}
	return newest
}

// snapshots finds the stored snapshots: the session's two, oldest first, and the
// other session's one. Volumes have ids and no names; the operator tells them
// apart by how often they changed.
func (s *scene) snapshots() (own [2]string, others string) {
	s.T.Helper()
	for _, folder := range s.glob("*") {
		switch files := s.glob(filepath.Base(folder), "*"); len(files) { // GENERATION-TAG
		case 1:
			others = files[0]
		case 2:
			own = [2]string(files)
		}
	}
	if own[0] == "" || others == "" {
		s.T.Fatalf("stored: %v; want two snapshots of one volume and one of another", s.glob("*", "*"))
	}
	return own, others
}

func (s *scene) glob(pattern ...string) []string {
	s.T.Helper()
	found, err := filepath.Glob(filepath.Join(append([]string{s.State, "node", "volumes"}, pattern...)...))
	if err != nil {
		s.T.Fatal(err)
	}
	return found // in order
}

// tampered: each kind of damage is refused by a rule of its own, what served
// goes on serving, and with the registry's copy back, which takes its place, all is well.
func (s *scene) tampered(t *testing.T) {
	client := s.owner.AppClient(session)
	if g := s.generation(); g != 2 {
		t.Fatalf("the volume is at generation %d, want 2", g)
	}
	own, others := s.snapshots()
	file := own[1]
	good := read(t, file)
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)/2] ^= 1
	copies, away := s.copies(file), filepath.Join(s.State, "registry", "away")
	move(t, copies, away)
	for _, c := range []struct {
		name, rule string
		bytes      []byte
	}{
		{"older generation", string(sealed.RuleRolledBack), read(t, own[0])},
		{"flipped byte", string(sealed.RuleTampered), flipped},
		{"truncated", string(sealed.RuleTruncated), good[:len(good)-100]},
		{"only the head", string(sealed.RuleTruncated), good[:len(good)/1000]},
		{"another session's", string(sealed.RuleSwapped), read(t, others)},
		{"nothing of it", string(sealed.RuleTruncated), nil},
		{"noise", string(sealed.RuleFormat), noise(len(good))},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, file, c.bytes)
			p := s.owner.MustNotDeploy(c.rule, session, "--port", s.port)
			t.Logf("refused: %+v", p)
			all := s.owner.CASInstances(session)
			if last := all[len(all)-1]; last.State != owners.Exited || last.ExitReason != c.rule {
				t.Errorf("the CAS says of the last instance: %s, %q", last.State, last.ExitReason)
			}
			if a, err := client.Get(netip.Addr{}, s.at); err != nil || a.Message != "second edition" {
				t.Errorf("what served before: %+v, %v", a, err)
			}
		})
	}
	move(t, away, copies)
	s.push("third edition")
	s.deploy()
	if a, err := client.Get(netip.Addr{}, s.at); err != nil || a.Message != "third edition" {
		t.Errorf("with the registry's copy back: %+v, %v", a, err)
	}
	aside := "damaged/" + filepath.Base(filepath.Dir(file)) + "-" + filepath.Base(file)
	if _, err := os.Stat(filepath.Join(s.State, "node", aside)); err != nil {
		t.Error(err)
	}
	if told := s.Operator.MustRun("events"); !strings.Contains(told, "volume_damaged") || !strings.Contains(told, aside) {
		t.Errorf("events: %s", told)
	}
}

// copies is the registry's folder of the volume that a snapshot is of.
func (s *scene) copies(snapshot string) string {
	return filepath.Join(s.State, "registry/docker/registry/v2/repositories/volumes", filepath.Base(filepath.Dir(snapshot)))
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// tooLarge: what the instance's memory can't hold is refused with the mend, and
// the volume stays as it was.
func (s *scene) tooLarge(t *testing.T) {
	push := func(fill string) {
		files := harness.ExampleApp(s.World)
		for i := range 45 { // small on its way here
			files[fmt.Sprintf("data/%d.bin", i)] = fmt.Sprint(i) + strings.Repeat(fill, 5<<20)
		}
		s.Git.Push("app", files)
	}
	t.Run("found while pulling", func(t *testing.T) {
		before := s.generation()
		push("x")
		// Whether a write fails first, or git is killed, is the kernel's choice.
		p := s.owner.MustNotDeploy("pull_space|out_of_memory", session, "--port", s.port)
		t.Logf("refused: %+v", p)
		if !strings.Contains(p.Mend, "--memory") {
			t.Errorf("the mend does not name the flag: %s", p.Mend)
		}
		if after := s.generation(); after != before {
			t.Errorf("generation %d was committed, was %d", after, before)
		}
	})

	// git leaves holes where there are zeros: they cost no memory, neither here nor
	// where the volume is opened.
	t.Run("as long, of holes", func(t *testing.T) {
		before := s.generation()
		push("\x00")
		s.deploy()
		if after := s.generation(); after != before+1 {
			t.Errorf("generation %d was committed, was %d", after, before)
		}
		if a, err := s.owner.AppClient(session).Get(netip.Addr{}, s.at); err != nil || a.Message == "" {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

// twoWriters: two deployments of one session pull at once. One has the lease; the
// CAS doesn't release to the other one, which waits, says so, and pulls when the
// lease is free.
func (s *scene) twoWriters(t *testing.T) {
	s.push("fourth edition")
	before := s.generation()
	released := len(s.owner.CASInstances(session))
	s.Git.Pause()
	defer s.Git.Resume()
	done := make(chan harness.Result, 2)
	second := harness.FreePort(t)
	go func() { done <- s.owner.Run("deploy", session, "--memory", "256M", "--port", s.port) }()
	go func() {
		done <- s.owner.Run("deploy", session, "--memory", "256M", "--name", "twin", "--port", strconv.Itoa(int(second)))
	}()

	s.Eventually(60*time.Second, func() error {
		var list struct{ Apps []manager.App }
		s.owner.MustJSON(&list, "ps")
		for _, a := range list.Apps {
			if w := a.Deployment.Waiting; w != nil && w.Rule == "lease_held" {
				return nil
			}
		}
		return fmt.Errorf("nobody waits for the lease: %+v", list.Apps)
	})
	pulling := s.owner.CASInstances(session)[released:]
	if len(pulling) != 1 || pulling[0].Volumes[0].Access != owners.ReadWrite || len(done) != 0 {
		t.Errorf("the CAS released to %+v, want one writer; %d deployments ended", pulling, len(done))
	}

	s.Git.Resume()
	for range 2 {
		if r := <-done; r.Code != 0 {
			t.Errorf("a deployment failed: %s", r)
		}
	}
	client := s.owner.AppClient(session)
	for _, at := range []netip.AddrPort{s.at, netip.AddrPortFrom(s.at.Addr(), second)} {
		if a, err := client.Get(netip.Addr{}, at); err != nil || a.Message != "fourth edition" {
			t.Errorf("%s: %+v, %v", at, a, err)
		}
	}
	commits := map[uint64]int{}
	for _, i := range s.owner.CASInstances(session)[released:] {
		v := i.Volumes[0]
		if v.Access == owners.ReadWrite && i.State == owners.Exited && v.Generation > before {
			commits[v.Generation]++
		}
	}
	if len(commits) != 2 || commits[before+1] != 1 || commits[before+2] != 1 {
		t.Errorf("commits by generation: %v, want one each of %d and %d", commits, before+1, before+2)
	}
	s.owner.MustRun("rm", "--app", "twin")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// removed: the operator can't remove the volume of an app that is there, an owner none,
// and what belonged to an app that is gone goes.
func (s *scene) removed(t *testing.T) {
	var list struct {
		Volumes []struct {
			ID           string
			Apps, Before []string
		}
	}
	look := func() {
		if err := json.Unmarshal([]byte(s.Operator.MustRun("volume", "ls", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
	}
	look()
	id := ""
	for _, v := range list.Volumes {
		if slices.Equal(v.Apps, []string{other}) {
			id = v.ID
		}
	}
	if id == "" {
		t.Fatalf("no volume is of %s: %+v", other, list)
	}
	for by, rule := range map[*harness.Party]string{s.owner: "not_operator", s.Operator: "volume_in_use"} {
		r := by.Run("volume", "rm", id, "--yes", "--force")
		if r.Code == 0 || !strings.Contains(r.Stderr, rule) || !strings.Contains(r.Stderr, "mend:") {
			t.Errorf("%s removes it: %s", by.Name, r)
		}
		t.Log(r.Stderr)
	}

	s.owner.MustRun("rm", "--app", other)
	s.Operator.MustRun("volume", "rm", id, "--yes")
	if left := s.glob(id, "*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	look()
	for _, v := range list.Volumes {
		if v.ID == id {
			t.Errorf("it is listed still: %+v", v)
		}
	}
	t.Log(s.Operator.MustRun("volume", "ls"))
}
