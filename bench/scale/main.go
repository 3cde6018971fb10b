// Command scale runs many simulated instances against a real cupel-cas: each is
// attested and released over a connection of its own, and reports from then on as
// often as it is told, over a fresh connection each time, as the launcher does.
//
// Their evidence is of a simulated platform and is verified as any other. What it
// costs to make it, and the client's half of all handshakes, is paid by the same
// machine: rates are lower than what the CAS alone could do, CPU and memory are
// those of its process.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/bench/peer"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/testing/castest"
	"cupel.dev/cupel/internal/trusted/wire"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench/scale:", err)
		os.Exit(1)
	}
}

// code is what all instances run.
var code = ident.Measurement{0x11}

// session is what they are released for.
const session = `version: "0.3"
name: bench
services:
  - {name: app, mrenclaves: [CODE], command: app, environment: {TOKEN: "$$SCONE::token$$"}}
secrets:
  - {name: token, kind: ascii, value: "an access token of forty characters ...."}
security: {attestation: {tolerate: ["simulation:$SIMULATION_ROOT"]}}
`

// connection is about what a connection that is held open takes at the CAS.
const connection = 100 << 10

// fleet is the CAS and the instances that run.
type fleet struct {
	platform *simtee.Platform
	cas      *peer.Server
	identity ident.KeyHash
	token    owners.GrantToken

	started atomic.Int64
	running chan *instance // those that were released
	reports atomic.Int64
	late    atomic.Int64 // reports that came later than told
	failed  atomic.Int64 // that the CAS did not take
	period  atomic.Int64 // told last, in seconds

	mu  sync.Mutex
	err error // the first that failed
}

// instance is one that runs.
type instance struct {
	*castest.Instance
	due   time.Time
	every time.Duration
}

// run opens the fleet, measures it, and starts its CAS again.
func run() error {
	binary := flag.String("cas", "bin/cupel-cas", "the cupel-cas to measure")
	instances := flag.Int("instances", 20_000, "how many to run")
	steady := flag.Duration("steady", 30*time.Second, "how long to watch them")
	most := flag.Duration("most", 150*time.Second, "how long their start may take: then go on with those that run")
	flag.Parse()

	dir, err := os.MkdirTemp("", "cupel-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	f := &fleet{running: make(chan *instance, *instances)}
	if err := f.open(dir, *binary); err != nil {
		return err
	}
	defer func() { f.cas.Stop() }()

	ctx, cancel := context.WithCancel(context.Background())
	var reporting sync.WaitGroup
	reporting.Go(func() { f.report(ctx) })
	err = f.measure(*instances, *steady, *most)
	cancel()
	reporting.Wait()
	if err != nil {
		return err
	}
	return f.restart(dir, *binary)
}

// open starts the CAS and gets a grant.
func (f *fleet) open(dir, binary string) error {
	var err error
	if f.platform, err = simtee.Open(filepath.Join(dir, "platform"), time.Now); err != nil {
		return err
	}

	root := filepath.Join(dir, "root.pem")
	if err := os.WriteFile(root, f.platform.RootPEM(), 0o600); err != nil {
		return err
	}

	if f.cas, err = startCAS(dir, binary); err != nil {
		return err
	}

	if f.identity, err = ident.ParseKeyHash(f.cas.Identity); err != nil {
		return err
	}
	return f.grant()
}

// startCAS starts cupel-cas on state in dir.
func startCAS(dir, binary string) (*peer.Server, error) {
	return peer.Start(exec.Command(binary, "--state", filepath.Join(dir, "state"), "--owners", "127.0.0.1:0",
		"--instances", "127.0.0.1:0", "--simulation-root", filepath.Join(dir, "root.pem"), "--ready-fd", "3", "--log-level", "warn"))
}

// restart measures how long the CAS takes to start on the log that the instances left,
// beside reading and hashing its database once.
func (f *fleet) restart(dir, binary string) error {
	key, err := castest.NewKey()
	if err != nil {
		return err
	}
	owner := castest.NewOwner(f.cas.Owners, f.identity, key)
	defer owner.Close()

	var page owners.LogPage

	if _, err := owner.Do(context.Background(), http.MethodGet, owners.PathLog+"?limit=1", nil, &page); err != nil {
		return err
	}
	f.cas.Stop()

	began := time.Now()
	read, err := hashed(filepath.Join(dir, "state", "cas.db"))
	if err != nil {
		return err
	}

	reading := time.Since(began)

	began = time.Now()
	if f.cas, err = startCAS(dir, binary); err != nil {
		return err
	}

	start := time.Since(began)
	fmt.Printf("scale, start       %.1fx reading and hashing its database once, with %d entries in the log; %.2f s against %.2f s for %d MB\n",
		start.Seconds()/reading.Seconds(), page.Head.Seq, start.Seconds(), reading.Seconds(), read/1_000_000)
	return nil
}

// hashed reads and hashes a file, and returns its length.
func hashed(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	return io.Copy(sha256.New(), file)
}

// grant makes the session and gets the token that every release presents.
func (f *fleet) grant() error {
	ctx := context.Background()
	key, err := castest.NewKey()
	if err != nil {
		return err
	}

	owner := castest.NewOwner(f.cas.Owners, f.identity, key)
	defer owner.Close()

	owner.Root = ident.Sum(f.platform.Root().Raw)

	text := strings.ReplaceAll(session, "CODE", code.String())

	if _, err := owner.Do(ctx, http.MethodPost, "/session", []byte(text), nil); err != nil {
		return err
	}

	made, err := owner.Grant(ctx, "bench", map[ident.ServiceName]owners.GrantedService{"app": {Instances: 100_000}})
	if err != nil {
		return err
	}

	claimed, err := castest.Claim(ctx, f.cas.Instances, f.identity, key, made.Code)
	f.token = claimed.Token
	return err
}

// start releases one more instance. Each comes from one of many addresses of this
// machine, as those of a fleet do.
func (f *fleet) start(i int) error {
	in, err := castest.NewInstance(f.cas.Instances, f.identity, f.platform, "bench", "app", code)
	if err != nil {
		return err
	}

	in.Grant = f.token
	in.From = &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%250))}

	c, reply, err := in.Release(context.Background())
	if err != nil {
		return err
	}

	c.Close()
	every := time.Duration(reply.KeepAliveSeconds) * time.Second

	f.started.Add(1)
	f.running <- &instance{in, time.Now().Add(every), every}
	return nil
}

// startMany releases instances up to n, or until the time is over.
func (f *fleet) startMany(n int, until time.Time) error {
	const inFlight = 16

	var next atomic.Int64
	next.Store(f.started.Load())

	var all sync.WaitGroup
	errs := make([]error, inFlight)

	for w := range inFlight {
		all.Go(func() {
			for errs[w] == nil && time.Now().Before(until) {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				errs[w] = f.start(int(i))
			}
		})
	}

	all.Wait()
	return errors.Join(errs...)
}

// report lets all that run report when they are due, until ctx ends. What is due
// first is at the front as long as periods don't shrink.
func (f *fleet) report(ctx context.Context) {
	const inFlight = 32

	var all sync.WaitGroup
	for range inFlight {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case in := <-f.running:
					if !f.wait(ctx, in) {
						return
					}
					f.beat(ctx, in)
					f.running <- in
				}
			}
		})
	}

	all.Wait()
}

// wait waits until an instance is due; false: ctx ended.
func (f *fleet) wait(ctx context.Context, in *instance) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Until(in.due)):
		return true
	}
}

// beat lets an instance report once. One that fails tries again soon.
func (f *fleet) beat(ctx context.Context, in *instance) {
	if time.Since(in.due) > in.every {
		f.late.Add(1)
	}

	var reply wire.KeepAliveReply
	c, err := in.Dial(ctx)
	if err == nil {
		err = c.Post(wire.PathKeepAlive, wire.KeepAlive{Version: wire.ReleaseVersion}, &reply)
		c.Close()
	}

	if err != nil {
		if ctx.Err() == nil {
			f.failed.Add(1)
			f.mu.Lock()
			if f.err == nil {
				f.err = err
			}
			f.mu.Unlock()
		}

		in.due = time.Now().Add(in.every / 3)
		return
	}

	f.reports.Add(1)
	f.period.Store(int64(reply.KeepAliveSeconds))
	in.every = time.Duration(reply.KeepAliveSeconds) * time.Second
	in.due = time.Now().Add(in.every)
}

// mark is how far everything has come at some time.
type mark struct {
	at               time.Time
	started, reports int64
	late, failed     int64
	cpu              time.Duration
	memory           int64
}

// mark takes one.
func (f *fleet) mark() (m mark, err error) {
	m.at = time.Now()
	m.started = f.started.Load()
	m.reports = f.reports.Load()
	m.late = f.late.Load()
	m.failed = f.failed.Load()

	if m.cpu, err = f.cas.CPU(); err != nil {
		return m, err
	}

	m.memory, err = f.cas.Memory()
	return m, err
}

// measure starts a few, then all, then watches them, and tells what was seen.
func (f *fleet) measure(n int, steady, most time.Duration) error {
	const first = 1000
	until := time.Now().Add(most)
	var marks []mark
	for _, step := range []func() error{
		func() error { return nil },
		func() error { return f.startMany(min(first, n), until) },
		func() error { return f.startMany(n, until) },
		func() error { time.Sleep(steady); return nil },
	} {
		if err := step(); err != nil {
			return err
		}

		m, err := f.mark()
		if err != nil {
			return err
		}

		marks = append(marks, m)
	}
	f.tell(n, marks)

	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// tell prints what was seen between the marks: at the beginning, with few, with
// all of them, and after a while.
func (f *fleet) tell(n int, marks []mark) {
	begin, few, all, end := marks[0], marks[1], marks[2], marks[3]
	running := all.started
	if running < int64(n) {
		fmt.Printf("scale: only %d of %d instances could be started in time\n", running, n)
	}

	reports := max(end.reports-all.reports, 1)
	report := (end.cpu - all.cpu) / time.Duration(reports)
	costFew := costOfRelease(begin, few, report)
	costRest := costOfRelease(few, all, report)
	fmt.Printf("scale, release     %.2fx the CPU of the first %d for those up to %d; %s CPU each, %.0f a second while all report\n",
		float64(costRest)/float64(costFew), few.started, running, costRest.Round(time.Microsecond),
		float64(running-few.started)/all.at.Sub(few.at).Seconds())

	each := float64(all.memory-few.memory) / float64(max(running-few.started, 1))
	fmt.Printf("scale, memory      %.2fx an open connection for each instance; %.1f kB, %d MB in all\n",
		each/connection, each/1000, all.memory/1_000_000)

	seconds := end.at.Sub(all.at).Seconds()
	fmt.Printf("scale, keep-alive  %.2fx one processor for %d instances, told to report every %d s; %s CPU each, %.0f a second\n",
		(end.cpu-all.cpu).Seconds()/seconds, running, f.period.Load(), report.Round(time.Microsecond), float64(reports)/seconds)
	if late, failed := end.late-begin.late, end.failed-begin.failed; late+failed > 0 {
		fmt.Printf("scale: %d reports were late, %d failed\n", late, failed)
	}
}

// costOfRelease is the CPU of a release between two marks, without that of the
// reports.
func costOfRelease(from, to mark, report time.Duration) time.Duration {
	cpu := to.cpu - from.cpu - time.Duration(to.reports-from.reports)*report
	return cpu / time.Duration(max(to.started-from.started, 1))
}
