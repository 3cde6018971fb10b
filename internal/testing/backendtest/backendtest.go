package backendtest

import (
	"bufio"
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
)

// Subject is a Backend under test, with specs that it can run.
type Subject struct {
	Backend manager.Backend
	// Spec returns a new spec with a unique ID whose instance prints at least
	// one line on standard output, accepts TCP connections on Port, and runs
	// until it is stopped.
	Spec func(t *testing.T) manager.InstanceSpec
	// Reopen, if set, ends the Backend as a crash would and returns a new one
	// over what it left.
	Reopen func(t *testing.T) manager.Backend
}

// patience is how long an instance may take to get anywhere.
const patience = 60 * time.Second

// Run runs the suite. Each test gets a Subject of its own.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"life", testLife},
		{"start is idempotent", testStartTwice},
		{"start without image", testNoImage},
		{"cancelled start leaves nothing", testCancelled},
		{"unknown ids", testUnknown},
		{"stop keeps logs", testStopKeepsLogs},
		{"followed logs end", testFollow},
		{"watch", testWatch},
		{"reopen adopts", testReopen},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// started is an instance that was asked to start; it is removed when the test ends.
func started(t *testing.T, s Subject) manager.InstanceSpec {
	t.Helper()
	sp := s.Spec(t)
	if _, err := s.Backend.EnsureImage(t.Context(), sp.Image); err != nil {
		t.Fatalf("EnsureImage: %v", err)
	}

	t.Cleanup(func() { _ = s.Backend.Remove(context.WithoutCancel(t.Context()), sp.ID) })
	if err := s.Backend.Start(t.Context(), sp); err != nil {
		t.Fatalf("Start: %v", err)
	}
	return sp
}

// status is what the Backend lists of the instance.
func status(t *testing.T, b manager.Backend, id ident.AttemptID) (manager.InstanceStatus, bool) {
	t.Helper()
	list, err := b.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}

	if !slices.IsSortedFunc(list, func(a, b manager.InstanceStatus) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	}) {
		t.Errorf("List isn't ordered by id")
	}

	for _, s := range list {
		if s.ID == id {
			return s, true
		}
	}
	return manager.InstanceStatus{}, false
}

// await waits until the instance is as it is to be.
func await(t *testing.T, b manager.Backend, id ident.AttemptID, what string, ok func(manager.InstanceStatus) bool) manager.InstanceStatus {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s, there := status(t, b, id)
		if there && ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not %s in time: %+v", id, what, s)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func healthy(s manager.InstanceStatus) bool {
	return s.State == manager.StateRunning && s.Health == manager.HealthHealthy
}

func testLife(t *testing.T, s Subject) {
	sp := started(t, s)

	got := await(t, s.Backend, sp.ID, "healthy", healthy)
	if got.App != sp.App || got.Memory != sp.Memory || !got.IP.IsValid() || got.CreatedAt.IsZero() || got.StartedAt.IsZero() || got.InstanceID.IsZero() {
		t.Errorf("status of a healthy instance lacks something: %+v", got)
	}
	for k, v := range sp.Labels {
		if got.Labels[k] != v {
			t.Errorf("label %s = %q, want %q", k, got.Labels[k], v)
		}
	}

	if err := s.Backend.Stop(t.Context(), sp.ID, time.Second); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	got, there := status(t, s.Backend, sp.ID)
	if !there || got.State != manager.StateExited || got.ExitedAt.IsZero() || got.Health == manager.HealthHealthy {
		t.Errorf("after Stop: %+v, listed %v; want exited", got, there)
	}
	if err := s.Backend.Stop(t.Context(), sp.ID, time.Second); err != nil {
		t.Errorf("Stop again: %v", err)
	}

	if err := s.Backend.Start(t.Context(), sp); problem.KindOf(err) != problem.Conflict {
		t.Errorf("Start of an exited id: %v; want a conflict", err)
	}
	if err := s.Backend.Remove(t.Context(), sp.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if _, there := status(t, s.Backend, sp.ID); there {
		t.Errorf("listed after Remove")
	}
}

func testStartTwice(t *testing.T, s Subject) {
	sp := started(t, s)

	first := await(t, s.Backend, sp.ID, "healthy", healthy)
	if err := s.Backend.Start(t.Context(), sp); err != nil {
		t.Fatalf("Start again: %v", err)
	}
	if got, _ := status(t, s.Backend, sp.ID); !got.StartedAt.Equal(first.StartedAt) || got.IP != first.IP {
		t.Errorf("the second Start changed the instance: %+v, was %+v", got, first)
	}

	// A running instance is removed with all that it has.
	if err := s.Backend.Remove(t.Context(), sp.ID); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if _, there := status(t, s.Backend, sp.ID); there {
		t.Errorf("listed after Remove")
	}
}

func testNoImage(t *testing.T, s Subject) {
	sp := s.Spec(t)
	sp.Image += "-no-such"
	if _, err := s.Backend.EnsureImage(t.Context(), sp.Image); err == nil {
		t.Errorf("EnsureImage of an unknown reference: no error")
	}
	err := s.Backend.Start(t.Context(), sp)
	if problem.KindOf(err) != problem.NotFound || !problem.Is(err, problem.RuleImageMissing) {
		t.Errorf("Start without image: %v; want image_missing", err)
	}

	if _, there := status(t, s.Backend, sp.ID); there {
		t.Errorf("listed after a failed Start")
	}
}

func testCancelled(t *testing.T, s Subject) {
	sp := s.Spec(t)
	if _, err := s.Backend.EnsureImage(t.Context(), sp.Image); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Backend.Start(ctx, sp); err == nil {
		t.Errorf("Start with a cancelled context: no error")
	}
	if _, there := status(t, s.Backend, sp.ID); there {
		t.Errorf("listed after a cancelled Start")
	}
}

func testUnknown(t *testing.T, s Subject) {
	if err := s.Backend.Stop(t.Context(), "nobody-1", time.Second); problem.KindOf(err) != problem.NotFound {
		t.Errorf("Stop: %v; want not found", err)
	}
	if err := s.Backend.Remove(t.Context(), "nobody-1"); err != nil {
		t.Errorf("Remove: %v; want no error", err)
	}
	if _, err := s.Backend.Logs(t.Context(), "nobody-1", manager.LogOptions{Tail: -1}); problem.KindOf(err) != problem.NotFound {
		t.Errorf("Logs: %v; want not found", err)
	}
}

// lines reads an instance's output to its end.
func lines(t *testing.T, b manager.Backend, id ident.AttemptID, opts manager.LogOptions) []manager.LogLine {
	t.Helper()
	r, err := b.Logs(t.Context(), id, opts)
	if err != nil {
		t.Fatalf("Logs: %v", err)
	}
	defer func() { _ = r.Close() }()

	var out []manager.LogLine
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		var l manager.LogLine
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatalf("log line %q: %v", sc.Text(), err)
		}
		out = append(out, l)
	}
	return out
}

func testStopKeepsLogs(t *testing.T, s Subject) {
	sp := started(t, s)
	await(t, s.Backend, sp.ID, "healthy", healthy)
	if err := s.Backend.Stop(t.Context(), sp.ID, time.Second); err != nil {
		t.Fatalf("Stop: %v", err)
	}

	all := lines(t, s.Backend, sp.ID, manager.LogOptions{Tail: -1})
	if len(all) == 0 {
		t.Fatalf("no output")
	}
	for _, l := range all {
		if l.Time.IsZero() || l.Stream != "stdout" && l.Stream != "stderr" {
			t.Errorf("log line lacks something: %+v", l)
		}
	}

	if got := lines(t, s.Backend, sp.ID, manager.LogOptions{Tail: 1}); len(got) != 1 || got[0] != all[len(all)-1] {
		t.Errorf("Tail 1 = %+v; want the last of %+v", got, all)
	}
	if got := lines(t, s.Backend, sp.ID, manager.LogOptions{Tail: -1, Since: time.Now().Add(time.Hour)}); len(got) != 0 {
		t.Errorf("Since the future = %+v; want nothing", got)
	}
}

func testFollow(t *testing.T, s Subject) {
	sp := started(t, s)
	await(t, s.Backend, sp.ID, "healthy", healthy)
	go func() {
		time.Sleep(50 * time.Millisecond)
		_ = s.Backend.Stop(t.Context(), sp.ID, time.Second)
	}()

	got := lines(t, s.Backend, sp.ID, manager.LogOptions{Follow: true, Tail: -1})
	if len(got) == 0 {
		t.Errorf("followed nothing")
	}
}

func testWatch(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := s.Backend.Watch(ctx)
	if err != nil {
		t.Fatalf("Watch: %v", err)
	}

	sp := started(t, s)

	until := func(what string, ok func(manager.InstanceEvent) bool) {
		t.Helper()
		timeout := time.After(patience)
		for {
			select {
			case e := <-events:
				if e.Status.ID == sp.ID && ok(e) {
					return
				}
			case <-timeout:
				t.Fatalf("no event that shows it %s", what)
			}
		}
	}

	until("healthy", func(e manager.InstanceEvent) bool { return healthy(e.Status) })
	if err := s.Backend.Stop(t.Context(), sp.ID, time.Second); err != nil {
		t.Fatal(err)
	}
	until("exited", func(e manager.InstanceEvent) bool { return e.Status.State == manager.StateExited })
	if err := s.Backend.Remove(t.Context(), sp.ID); err != nil {
		t.Fatal(err)
	}
	until("removed", func(e manager.InstanceEvent) bool { return e.Removed })

	cancel()
	for range events { // closed, at last
	}
}

func testReopen(t *testing.T, s Subject) {
	if s.Reopen == nil {
		t.Skip("nothing outlives this backend's process")
	}
	sp := started(t, s)
	before := await(t, s.Backend, sp.ID, "healthy", healthy)

	s.Backend = s.Reopen(t)
	after := await(t, s.Backend, sp.ID, "healthy again", healthy)
	if after.IP != before.IP || after.InstanceID != before.InstanceID || !after.StartedAt.Equal(before.StartedAt) {
		t.Errorf("adopted as another instance: %+v, was %+v", after, before)
	}

	if err := s.Backend.Remove(t.Context(), sp.ID); err != nil {
		t.Errorf("Remove of an adopted instance: %v", err)
	}
}
