package backendtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Rules that a Fake raises.
const (
	// ruleImage: there is no image of that reference.
	// Mend: give the reference of one that there is.
	ruleImage problem.Rule = "image"

	// ruleInstance: there is no instance of that id.
	// Mend: give the id of one that was started.
	ruleInstance problem.Rule = "instance"

	// ruleInstanceExited: an instance of that id was started before and has ended.
	// Mend: start it under another id.
	ruleInstanceExited problem.Rule = "instance_exited"
)

// Fake is a Backend in memory. Its instances attest, run and turn healthy by
// themselves at once, unless Script says otherwise. Safe for concurrent use.
type Fake struct {
	// Script decides what an instance does once it started; nil: by default
	// apps run until stopped and jobs end with 0. Set it before the first call.
	Script func(manager.InstanceSpec) Script
	// Ending is how long an instance takes to end when it is told to. Set it
	// before the first call.
	Ending time.Duration
	// Stopping, if set, is told which instance is about to be told to end. Set it
	// before the first call.
	Stopping func(id ident.AttemptID)

	mu        sync.Mutex
	instances map[ident.AttemptID]*fakeInstance
	images    map[ident.ImageRef]bool
	missing   map[ident.ImageRef]*problem.Error // what EnsureImage says of a reference
	watchers  map[chan manager.InstanceEvent]bool
	starts    []manager.InstanceSpec
	next      uint32
}

// Script is the life of one fake instance.
type Script struct {
	StartError error // Start fails with it
	Delay      time.Duration
	Unhealthy  bool           // never accepts connections
	Hang       bool           // never attests
	Exit       bool           // ends by itself
	Code       int            // with Exit
	OOM        bool           // with Exit
	Life       time.Duration  // of a certificate that it can't renew while it runs; 0: it has none
	Problem    *problem.Error // with Exit why it ended, with Hang what it waits for, with Unhealthy why it is
}

type fakeInstance struct {
	spec   manager.InstanceSpec
	status manager.InstanceStatus
	logs   []manager.LogLine
	word   *problem.Error // what the launcher says when it is told to end
	ended  chan struct{}
}

var _ manager.Backend = (*Fake)(nil)

// NewFake returns an empty Fake.
func NewFake() *Fake {
	return &Fake{
		instances: map[ident.AttemptID]*fakeInstance{},
		images:    map[ident.ImageRef]bool{},
		missing:   map[ident.ImageRef]*problem.Error{},
		watchers:  map[chan manager.InstanceEvent]bool{},
	}
}

// Started returns the specs of all successful Starts, in order.
func (f *Fake) Started() []manager.InstanceSpec {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.starts)
}

// Start implements manager.Backend.
func (f *Fake) Start(ctx context.Context, spec manager.InstanceSpec) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if in, ok := f.instances[spec.ID]; ok {
		if in.status.State == manager.StateExited {
			return problem.New(problem.Conflict, ruleInstanceExited, "instance %s exited", spec.ID)
		}
		return nil
	}

	if !f.images[spec.Image] {
		return problem.New(problem.NotFound, problem.RuleImageMissing, "image %s is not here", spec.Image)
	}

	s := Script{}
	if f.Script != nil {
		s = f.Script(spec)
	} else if spec.Port == 0 {
		s = Script{Exit: true}
	}

	if s.StartError != nil {
		return s.StartError
	}

	f.next++
	in := &fakeInstance{spec: spec, ended: make(chan struct{}), status: manager.InstanceStatus{
		ID:        spec.ID,
		App:       spec.App,
		Labels:    spec.Labels,
		State:     manager.StateStarting,
		Phase:     string(wire.Starting),
		IP:        netip.AddrFrom4([4]byte{10, 88, byte(f.next >> 8), byte(f.next)}),
		Memory:    spec.Memory,
		CreatedAt: time.Now(),
	}}

	f.instances[spec.ID] = in
	f.starts = append(f.starts, spec)
	f.log(in, "started")
	f.tell(in, false)
	go f.live(in, s)
	return nil
}

// live plays the script.
func (f *Fake) live(in *fakeInstance, s Script) {
	if s.Hang && s.Problem == nil {
		return
	}

	time.Sleep(s.Delay)
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.Hang {
		in.status.Problem = s.Problem
		f.tell(in, false)
		return
	}

	if in.status.State != manager.StateStarting {
		return
	}
	if s.Unhealthy {
		in.status.Problem = s.Problem
	}
	if s.Problem == nil || s.Unhealthy {
		in.status.State, in.status.Phase, in.status.StartedAt = manager.StateRunning, string(wire.Running), time.Now()
		in.status.InstanceID = ident.InstanceID(ident.Sum([]byte(in.spec.ID)))
		if s.Life > 0 {
			in.status.CertificateSince, in.status.CertificateUntil = time.Now(), time.Now().Add(s.Life)
		}
		if in.spec.Port != 0 && !s.Unhealthy {
			in.status.Health = manager.HealthHealthy
		}
	}

	if s.Exit {
		f.end(in, s.Code, s.OOM, s.Problem)
	}
	f.tell(in, false)
}

// end takes note of an exit. Callers hold mu.
func (f *Fake) end(in *fakeInstance, code int, oom bool, why *problem.Error) {
	if in.status.State == manager.StateExited {
		return
	}
	in.status.State, in.status.Phase, in.status.Health = manager.StateExited, string(wire.Exited), manager.HealthUnknown
	in.status.ExitCode, in.status.OOMKilled, in.status.Problem = code, oom, why
	if why != nil && why.Rule != wire.RuleNotCommitted && !in.status.StartedAt.IsZero() {
		in.status.Phase, in.status.ExitCode = string(wire.Refused), 125
	}

	in.status.ExitedAt = time.Now()
	f.log(in, "exited")
	close(in.ended)
}

// Crash ends a running instance from inside.
func (f *Fake) Crash(id ident.AttemptID, code int, oom bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in, ok := f.instances[id]; ok {
		f.end(in, code, oom, nil)
		f.tell(in, false)
	}
}

// Lose ends a running instance as the end of its machine does.
func (f *Fake) Lose(id ident.AttemptID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in, ok := f.instances[id]; ok {
		f.end(in, 255, false, nil)
		in.status.Problem = problem.New(problem.Unavailable, manager.RuleNodeRestarted, "the instance went down with its machine or its containers")
		f.tell(in, false)
	}
}

// SetHealth changes what the health check finds.
func (f *Fake) SetHealth(id ident.AttemptID, h manager.Health) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in, ok := f.instances[id]; ok {
		in.status.Health = h
		f.tell(in, false)
	}
}

// Renew gives a running instance's app another certificate of that life.
func (f *Fake) Renew(id ident.AttemptID, life time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in, ok := f.instances[id]; ok {
		in.status.CertificateSince, in.status.CertificateUntil = time.Now(), time.Now().Add(life)
		f.tell(in, false)
	}
}

// SetInstanceID is the id under which the CAS knows the instance.
func (f *Fake) SetInstanceID(id ident.AttemptID, at ident.InstanceID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in, ok := f.instances[id]; ok {
		in.status.InstanceID = at
	}
}

// SetLastWord is what the instance's launcher says when it is told to end.
func (f *Fake) SetLastWord(id ident.AttemptID, p *problem.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in, ok := f.instances[id]; ok {
		in.word = p
	}
}

// SetMissing makes EnsureImage of the reference fail, or nil: succeed again.
func (f *Fake) SetMissing(ref ident.ImageRef, err *problem.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missing[ref] = err
}

// Stop implements manager.Backend.
func (f *Fake) Stop(ctx context.Context, id ident.AttemptID, _ time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()

	in, ok := f.instances[id]
	if !ok {
		return problem.New(problem.NotFound, ruleInstance, "no instance %s", id)
	}
	if in.status.State == manager.StateExited {
		return nil
	}

	if f.Stopping != nil {
		f.Stopping(id)
	}
	if f.Ending > 0 {
		in.status.State = manager.StateStopping
		f.tell(in, false)
		f.mu.Unlock()
		time.Sleep(f.Ending)
		f.mu.Lock()
	}

	f.end(in, 143, false, in.word)
	f.tell(in, false)
	return nil
}

// Remove implements manager.Backend.
func (f *Fake) Remove(ctx context.Context, id ident.AttemptID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if in, ok := f.instances[id]; ok {
		f.end(in, 137, false, nil)
		delete(f.instances, id)
		f.tell(in, true)
	}
	return nil
}

// List implements manager.Backend.
func (f *Fake) List(ctx context.Context) ([]manager.InstanceStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []manager.InstanceStatus{}
	for _, id := range slices.Sorted(maps.Keys(f.instances)) {
		out = append(out, f.instances[id].status)
	}
	return out, ctx.Err()
}

// Watch implements manager.Backend.
func (f *Fake) Watch(ctx context.Context) (<-chan manager.InstanceEvent, error) {
	ch := make(chan manager.InstanceEvent, 1024)
	f.mu.Lock()
	f.watchers[ch] = true
	f.mu.Unlock()

	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, ch)
		close(ch)
	})
	return ch, nil
}

// tell sends an event; a watcher that is far behind has enough of them to look
// again anyway. Callers hold mu.
func (f *Fake) tell(in *fakeInstance, removed bool) {
	e := manager.InstanceEvent{Status: in.status, Removed: removed}
	if removed {
		e.Status = manager.InstanceStatus{ID: in.status.ID, App: in.status.App}
	}
	for ch := range f.watchers {
		select {
		case ch <- e:
		default:
		}
	}
}

// log adds a line to the instance's output. Callers hold mu.
func (f *Fake) log(in *fakeInstance, line string) {
	in.logs = append(in.logs, manager.LogLine{Time: time.Now(), Stream: "stdout", Line: line})
}

// Logs implements manager.Backend.
func (f *Fake) Logs(ctx context.Context, id ident.AttemptID, opts manager.LogOptions) (io.ReadCloser, error) {
	f.mu.Lock()
	in, ok := f.instances[id]
	f.mu.Unlock()
	if !ok {
		return nil, problem.New(problem.NotFound, ruleInstance, "no instance %s", id)
	}

	if !opts.Follow {
		return io.NopCloser(bytes.NewReader(f.lines(in, opts, 0))), nil
	}

	r, w := io.Pipe()
	go func() {
		f.mu.Lock()
		n := len(in.logs)
		f.mu.Unlock()
		if _, err := w.Write(f.lines(in, opts, 0)); err != nil {
			return
		}

		select {
		case <-in.ended:
		case <-ctx.Done():
		}
		opts.Tail = -1
		_, _ = w.Write(f.lines(in, opts, n))
		_ = w.Close()
	}()
	return r, nil
}

// lines is the instance's output after the first lines, as JSON.
func (f *Fake) lines(in *fakeInstance, opts manager.LogOptions, from int) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []manager.LogLine
	for _, l := range in.logs[from:] {
		if !l.Time.Before(opts.Since) {
			out = append(out, l)
		}
	}

	if opts.Tail >= 0 && len(out) > opts.Tail {
		out = out[len(out)-opts.Tail:]
	}

	var b bytes.Buffer
	for _, l := range out {
		_ = json.NewEncoder(&b).Encode(l) // a LogLine always encodes
	}
	return b.Bytes()
}

// EnsureImage implements manager.Backend.
func (f *Fake) EnsureImage(ctx context.Context, ref ident.ImageRef) (manager.ImageInfo, error) {
	if err := ctx.Err(); err != nil {
		return manager.ImageInfo{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()

	if err := f.missing[ref]; err != nil {
		return manager.ImageInfo{}, err
	}
	if strings.Contains(string(ref), "no-such") {
		return manager.ImageInfo{}, problem.New(problem.NotFound, ruleImage, "no image %s", ref)
	}

	f.images[ref] = true
	d := ident.Sum([]byte(ref))
	return manager.ImageInfo{Ref: ref, Digest: d, Config: d, Size: 1}, nil
}
