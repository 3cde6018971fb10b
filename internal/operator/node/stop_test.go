package node

import (
	"context"
	"errors"
	"log/slog"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/trusted/wire"
)

// deafRuntime drops signals, as the kernel does for a first process without a
// handler, until the instance was asked so often.
type deafRuntime struct {
	Runtime
	asked  int
	listen func(asked int)
}

func (r *deafRuntime) Kill(_ context.Context, _ ident.AttemptID, signal syscall.Signal) error {
	if signal != syscall.SIGTERM {
		return errors.New("not SIGTERM")
	}
	r.asked++
	r.listen(r.asked)
	return nil
}

func (r *deafRuntime) List(context.Context) ([]ContainerState, error) { return nil, nil }

func TestDeafLauncherIsAskedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		listen func(i *instance, asked int)
		asked  int
		ended  bool
	}{
		"ends at once":  {func(i *instance, _ int) { close(i.exited) }, 1, true},
		"listens later": {func(i *instance, asked int) { i.rec.Report.Phase = phaseAfter(asked, 3) }, 3, false},
		"never listens": {func(*instance, int) {}, 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newInstance(&record{Spec: manager.InstanceSpec{ID: "i-1"}})
				r := &deafRuntime{listen: func(asked int) { c.listen(i, asked) }}
				n := &Node{cfg: Config{Runtime: r, Cgroups: &cgroup.Tree{}}, instances: map[ident.AttemptID]*instance{"i-1": i}}
				ended, err := n.terminateEarly(t.Context(), i, time.Second)
				if err != nil || ended != c.ended || r.asked != c.asked {
					t.Errorf("ended %v (want %v), asked %d times (want %d), %v", ended, c.ended, r.asked, c.asked, err)
				}
			})
		})
	}
}

func phaseAfter(asked, n int) wire.Phase {
	if asked < n {
		return ""
	}
	return wire.Starting
}

// endingRuntime passes SIGTERM to a launcher that is played, and ends upon SIGKILL.
type endingRuntime struct {
	Runtime
	i      *instance
	launch func()
	killed bool
}

func (r *endingRuntime) Kill(_ context.Context, _ ident.AttemptID, signal syscall.Signal) error {
	if signal == syscall.SIGKILL {
		r.killed = true
		close(r.i.exited)
		return nil
	}
	go r.launch()
	return nil
}

func (r *endingRuntime) List(context.Context) ([]ContainerState, error) { return nil, nil }

// TestStopWaitsForACommit: a launcher that stores volumes is killed only when
// nothing moves any more; one that winds its app down gets time to say so.
func TestStopWaitsForACommit(t *testing.T) {
	const grace = 10 * time.Second
	type say = func(wire.Phase)
	for name, c := range map[string]struct {
		launcher func(say say, storing func(int)) // returns when it exits
		killed   time.Duration                    // after the stop; 0: it is not
		alone    bool                             // nobody takes what it stores
	}{
		"ends in time": {func(say say, _ func(int)) { say(wire.Stopping); time.Sleep(grace / 2) }, 0, false},
		"kills what is left and tells": {func(say say, _ func(int)) {
			say(wire.Stopping)
			time.Sleep(grace + 5*time.Second)
			say(wire.Exited)
		}, 0, false},
		"says nothing": {func(say, func(int)) { time.Sleep(time.Hour) }, grace, false},
		"never ends":   {func(say say, _ func(int)) { say(wire.Stopping); time.Sleep(time.Hour) }, grace + reportWait, false},
		"stores for long": {func(say say, storing func(int)) {
			say(wire.Stopping)
			say(wire.Committing)
			for range 20 {
				time.Sleep(time.Minute)
				storing(0)
			}
			say(wire.Exited)
		}, 0, false},
		"makes it durable for long": {func(say say, storing func(int)) {
			say(wire.Committing)
			storing(1)
			time.Sleep(20 * time.Minute)
			storing(-1)
			say(wire.Exited)
		}, 0, false},
		"stalls": {func(say say, storing func(int)) {
			say(wire.Committing)
			time.Sleep(time.Minute)
			storing(0)
			time.Sleep(time.Hour)
		}, time.Minute + commitStall, false},
		"stores without end": {func(say say, storing func(int)) {
			say(wire.Committing)
			for range 600 {
				time.Sleep(time.Second * 6)
				storing(0)
			}
		}, grace + CommitLimit, false},
		"stores, and nobody takes it": {func(say say, _ func(int)) { say(wire.Committing); time.Sleep(time.Hour) }, grace, true},
		"ends, and nobody hears it":   {func(say say, _ func(int)) { say(wire.Exited); time.Sleep(time.Hour) }, grace, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newInstance(&record{Spec: manager.InstanceSpec{ID: "i-1"}, Report: wire.Status{Phase: wire.Running}})
				r := &endingRuntime{i: i}
				n := &Node{
					cfg:       Config{Runtime: r, Cgroups: &cgroup.Tree{}, Now: time.Now, Logger: slog.New(slog.DiscardHandler)},
					instances: map[ident.AttemptID]*instance{"i-1": i},
					journal:   journal{t.TempDir()},
				}
				if c.alone {
					n.StoreNothing()
				}
				gone := make(chan struct{})
				r.launch = func() {
					report, storing := n.reporter(i), n.storing(i)
					c.launcher(func(p wire.Phase) {
						orders := report(t.Context(), wire.Status{Phase: p})
						if p == wire.Stopping && orders.GraceMillis != grace.Milliseconds() {
							t.Errorf("the launcher was given %+v", orders)
						}
					}, storing)
					select {
					case <-i.exited: // killed
					default:
						close(i.exited)
					}
					close(gone)
				}
				began := time.Now()
				if err := n.Stop(t.Context(), "i-1", grace); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); r.killed != (c.killed > 0) || r.killed && took != c.killed {
					t.Errorf("killed %v after %v, want after %v", r.killed, took, c.killed)
				}
				<-gone
				if i.killed != r.killed {
					t.Error("it isn't written down whether it was killed")
				}
			})
		})
	}
}

// TestCertificateIsKnownSince: what the manager plans a restart by is the life of
// the newest certificate, whoever reported in between.
func TestCertificateIsKnownSince(t *testing.T) {
	i := newInstance(&record{})
	begin := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	at := func(hours int, s wire.Status) { i.report(s, begin.Add(time.Duration(hours)*time.Hour)) }
	at(0, wire.Status{Phase: wire.Attested, CertificateUntil: begin.Add(24 * time.Hour).Unix()})
	at(1, wire.Status{Phase: wire.Running, CertificateUntil: begin.Add(24 * time.Hour).Unix()})
	at(2, wire.Status{Phase: wire.Running}) // nobody's word: the port answers
	if s := i.status(); !s.CertificateSince.Equal(begin) || !s.CertificateUntil.Equal(begin.Add(24*time.Hour)) {
		t.Errorf("the first: %v to %v", s.CertificateSince, s.CertificateUntil)
	}
	at(12, wire.Status{Phase: wire.Running, CertificateUntil: begin.Add(36 * time.Hour).Unix()})
	if s := i.status(); !s.CertificateSince.Equal(begin.Add(12*time.Hour)) || !s.CertificateUntil.Equal(begin.Add(36*time.Hour)) {
		t.Errorf("renewed: %v to %v", s.CertificateSince, s.CertificateUntil)
	}
}
