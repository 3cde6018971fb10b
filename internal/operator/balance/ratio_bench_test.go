//go:build bench

package balance

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cupel.dev/cupel/internal/netlab"
)

// How much the balancer costs, as ratios to going to the instances directly, in
// one run: go test -tags bench -run '^TestRatios$' -v ./internal/operator/balance
// Both ways cross the same machine, from another namespace to the instances'.

const (
	rounds    = 31
	roundTime = 400 * time.Millisecond
	workers   = 24
	loaderEnv = "CUPEL_BALANCE_LOADER"
)

// load is what a loader process is asked to do.
type load struct {
	KeepAlive bool
	Targets   []netip.AddrPort // worker i uses i modulo their number
}

// TestLoader is no test: it is the client's process, started by TestRatios in
// the client's namespace.
func TestLoader(t *testing.T) {
	var l load
	if os.Getenv(loaderEnv) == "" {
		t.Skip("the client's side of TestRatios")
	}
	check(t, json.Unmarshal([]byte(os.Getenv(loaderEnv)), &l))
	var done atomic.Int64
	begin := time.Now()
	end := begin.Add(roundTime)
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for time.Now().Before(end) {
				done.Add(request(t, client4(i), l.Targets[i%len(l.Targets)], l.KeepAlive, end))
			}
		})
	}
	all.Wait()
	fmt.Printf("\ndone %d %f\n", done.Load(), time.Since(begin).Seconds())
}

// request connects once and asks once, or until end.
func request(t *testing.T, from netip.Addr, to netip.AddrPort, keepAlive bool, end time.Time) (n int64) {
	c, err := netlab.Dial(from, to)
	check(t, err)
	defer reset(c) // leaves no TIME_WAIT that would run out of ports
	in := bufio.NewReader(c)
	for {
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		check(t, err)
		resp, err := http.ReadResponse(in, nil)
		check(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		check(t, errors.Join(err, resp.Body.Close()))
		n++
		if !keepAlive || time.Now().After(end) {
			return n
		}
	}
}

func TestRatios(t *testing.T) {
	l := newLab(t)
	is := l.instances(3)
	var direct []netip.AddrPort
	var endpoints []*instance
	for _, i := range is {
		ln := listenIn(t, i.Space, netip.AddrPortFrom(i.IP, 8000))
		body := []byte(strings.Repeat("x", 512))
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })}
		go func() { _ = server.Serve(ln) }()
		t.Cleanup(func() { _ = server.Close() })
		i.Port = 8000
		direct = append(direct, netip.AddrPortFrom(i.IP, 8000))
		endpoints = append(endpoints, i)
	}
	setSysctl(t, "net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
	b := open(t)
	apply(t, b, endpoints...)
	balanced := []netip.AddrPort{netip.AddrPortFrom(public4, port)}
	for _, kind := range []struct {
		name      string
		keepAlive bool
		target    float64
	}{{"keep-alive requests", true, 0.95}, {"new connections", false, 0.75}} {
		measure(t, l, kind.keepAlive, direct) // warm up
		measure(t, l, kind.keepAlive, balanced)
		var ratios, base []float64
		for r := range rounds {
			var d, v float64
			if r%2 == 0 {
				d = measure(t, l, kind.keepAlive, direct)
				v = measure(t, l, kind.keepAlive, balanced)
			} else {
				v = measure(t, l, kind.keepAlive, balanced)
				d = measure(t, l, kind.keepAlive, direct)
			}
			ratios, base = append(ratios, v/d), append(base, d)
		}
		slices.Sort(ratios)
		slices.Sort(base)
		fmt.Printf("balancer, %-20s %.2f of direct (%.2f to %.2f in %d rounds; direct %.0f/s; target %.2f)\n",
			kind.name+":", ratios[rounds/2], ratios[0], ratios[rounds-1], rounds, base[rounds/2], kind.target)
	}
}

// measure runs a loader in the client's namespace and returns its requests a
// second.
func measure(t *testing.T, l *lab, keepAlive bool, targets []netip.AddrPort) float64 {
	t.Helper()
	order, err := json.Marshal(load{KeepAlive: keepAlive, Targets: targets})
	check(t, err)
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestLoader$", "-test.v")
	cmd.Env = append(os.Environ(), loaderEnv+"="+string(order))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	l.outside.Do(func() { err = cmd.Start() }) // a child is born into its parent thread's namespace
	check(t, err)
	check(t, cmd.Wait())
	for line := range strings.Lines(out.String()) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "done" {
			continue
		}
		n, err1 := strconv.ParseFloat(f[1], 64)
		s, err2 := strconv.ParseFloat(f[2], 64)
		check(t, err1)
		check(t, err2)
		return n / s
	}
	t.Fatalf("no answer from the loader:\n%s", out.String())
	return 0
}
