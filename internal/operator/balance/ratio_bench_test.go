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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cupel.dev/cupel/internal/testing/netlab"
)

// How much the balancer costs, as ratios to going to the instances directly, in
// one run: go test -tags bench -run '^TestRatios$' -v ./internal/operator/balance
// Both ways cross the same machine, from another namespace to the instances'.

const (
	rounds    = 15
	roundTime = 400 * time.Millisecond
	workers   = 24
	loaderEnv = "CUPEL_BALANCE_LOADER"
)

// load is what a loader process is asked to do.
type load struct {
	KeepAlive bool
	Bulk      bool // count bytes of large replies, not replies
	V6        bool
	Clients   int              // addresses that connections come from, in turn
	Targets   []netip.AddrPort // worker i uses i modulo their number
}

// bulk is how large a large reply is.
const bulk = 32 << 20

// TestLoader is no test: it is the client's process, started by TestRatios in
// the client's namespace.
func TestLoader(t *testing.T) {
	var l load
	if os.Getenv(loaderEnv) == "" {
		t.Skip("the client's side of TestRatios")
	}
	check(t, json.Unmarshal([]byte(os.Getenv(loaderEnv)), &l))
	client := client4
	if l.V6 {
		client = client6
	}
	var done atomic.Int64
	begin := time.Now()
	end := begin.Add(roundTime)
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for n := i; time.Now().Before(end); n += workers {
				done.Add(l.request(t, client(n%l.Clients), l.Targets[i%len(l.Targets)], end))
			}
		})
	}
	all.Wait()
	fmt.Printf("\ndone %d %f\n", done.Load(), time.Since(begin).Seconds())
}

// request connects once and asks once, or until end.
func (l load) request(t *testing.T, from netip.Addr, to netip.AddrPort, end time.Time) (n int64) {
	c, err := netlab.Dial(from, to)
	check(t, err)
	defer reset(c) // leaves no TIME_WAIT that would run out of ports
	in := bufio.NewReaderSize(c, 64<<10)
	path := "/"
	if l.Bulk {
		path = "/bulk"
	}
	for {
		_, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		check(t, err)
		resp, err := http.ReadResponse(in, nil)
		check(t, err)
		size, err := io.Copy(io.Discard, resp.Body)
		check(t, errors.Join(err, resp.Body.Close()))
		if l.Bulk {
			n += size
		} else {
			n++
		}
		if !l.KeepAlive || time.Now().After(end) {
			return n
		}
	}
}

// serveHTTP has an instance answer, and returns where.
func serveHTTP(t *testing.T, i *instance) netip.AddrPort {
	t.Helper()
	small, large := []byte(strings.Repeat("x", 512)), make([]byte, bulk)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bulk" {
			_, _ = w.Write(large)
			return
		}
		_, _ = w.Write(small)
	})}
	i.Port = 8000
	at := netip.AddrPortFrom(i.IP, i.Port)
	ln := listenIn(t, i.Space, at)
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return at
}

// haproxyPort is where HAProxy leads to the same instances.
const haproxyPort = 8081

// startHAProxy has HAProxy balance by the client's address, as the balancer does; false
// if it isn't installed.
func startHAProxy(t *testing.T, endpoints []netip.AddrPort) bool {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		fmt.Println("balancer: HAProxy is not installed, so nothing is measured against it: apt-get install haproxy")
		return false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "global\n maxconn 4000\ndefaults\n mode tcp\n maxconn 4000\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n")
	fmt.Fprintf(&b, "listen app\n bind %s:%d\n bind [%s]:%d\n balance source\n hash-type consistent\n", public4, haproxyPort, public6, haproxyPort)
	for n, e := range endpoints {
		fmt.Fprintf(&b, " server s%d %s\n", n, e)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	check(t, os.WriteFile(file, []byte(b.String()), 0o600))
	cmd := exec.Command(program, "-db", "-q", "-f", file)
	cmd.Stderr = os.Stderr
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 100 {
		if c, err := netlab.Dial(netip.Addr{}, netip.AddrPortFrom(public4, haproxyPort)); err == nil {
			_ = c.Close()
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("HAProxy doesn't listen")
	return false
}

func TestRatios(t *testing.T) {
	l := newLab(t)
	var direct []netip.AddrPort
	all := make([]*instance, 100)
	for n := range all {
		all[n] = l.instance(fmt.Sprint(n))
		at := serveHTTP(t, all[n])
		direct = append(direct, at)
	}
	setSysctl(t, "net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
	b := open(t)
	ours4 := []netip.AddrPort{netip.AddrPortFrom(public4, port)}
	ours6 := []netip.AddrPort{netip.AddrPortFrom(public6, port)}
	haproxy4 := []netip.AddrPort{netip.AddrPortFrom(public4, haproxyPort)}
	haproxy6 := []netip.AddrPort{netip.AddrPortFrom(public6, haproxyPort)}
	haproxy := startHAProxy(t, direct[:3])

	// Over IPv6 the balancer is a proxy; direct stays IPv4, as instances have no other.
	for _, kind := range []struct {
		name      string
		load      load
		endpoints int
		target    float64
	}{
		{"keep-alive requests", load{KeepAlive: true, Clients: workers}, 3, 0.95},
		{"new connections", load{Clients: workers}, 3, 0.75},
		{"bulk", load{KeepAlive: true, Bulk: true, Clients: workers}, 3, 0},
		{"IPv6, keep-alive requests", load{KeepAlive: true, V6: true, Clients: workers}, 3, 0},
		{"IPv6, new connections", load{V6: true, Clients: workers}, 3, 0},
		{"IPv6, bulk", load{KeepAlive: true, Bulk: true, V6: true, Clients: workers}, 3, 0},
		{"100 endpoints, new connections", load{Clients: workers}, 100, 0},
		{"10,000 clients, new connections", load{Clients: 10_000}, 3, 0},
	} {
		apply(t, b, all[:kind.endpoints]...)
		ours, peer := kind.load, kind.load
		ours.Targets, peer.Targets = ours4, haproxy4
		if kind.load.V6 {
			ours.Targets, peer.Targets = ours6, haproxy6
		}
		base := kind.load
		base.V6, base.Targets = false, direct[:kind.endpoints]
		rows := []row{{name: "of direct", load: ours}}
		if haproxy && kind.endpoints == 3 {
			rows = append(rows, row{name: "of direct through HAProxy", load: peer})
		}
		rounds := benchRounds()
		compare(t, l, base, rows, rounds)
		unit := "/s"
		if kind.load.Bulk {
			unit = " bytes/s"
		}
		fmt.Printf("balancer, %s:", kind.name)
		for _, r := range rows {
			slices.Sort(r.ratios)
			fmt.Printf(" %.2f %s (%.2f to %.2f)", r.ratios[rounds/2], r.name, r.ratios[0], r.ratios[rounds-1])
			if n := len(rows); n > 1 && r.name == rows[0].name {
				fmt.Print(",")
			}
		}
		fmt.Printf("; %d rounds, direct %.0f%s", rounds, rows[0].base/float64(rounds), unit)
		if kind.target > 0 {
			fmt.Printf("; target %.2f", kind.target)
		}
		fmt.Println()
	}
}

// row is one way that is compared with going to the instances directly.
type row struct {
	name   string
	load   load
	ratios []float64
	base   float64 // sum over the rounds
}

// compare runs all ways in each round, in another order each time.
func compare(t *testing.T, l *lab, base load, rows []row, rounds int) {
	for r := -1; r < rounds; r++ { // the first warms up
		var direct float64
		got := make([]float64, len(rows))
		for n := range len(rows) + 1 {
			if turn := (n + r + 1) % (len(rows) + 1); turn == 0 {
				direct = measure(t, l, base)
			} else {
				got[turn-1] = measure(t, l, rows[turn-1].load)
			}
		}
		if r < 0 {
			continue
		}
		for n := range rows {
			rows[n].ratios = append(rows[n].ratios, got[n]/direct)
			rows[n].base += direct
		}
	}
}

// benchRounds are fewer where CUPEL_BENCH_ROUNDS says so: to see that it runs.
func benchRounds() int {
	if n, err := strconv.Atoi(os.Getenv("CUPEL_BENCH_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return rounds
}

// measure runs a loader in the client's namespace and returns its requests, or bytes,
// a second.
func measure(t *testing.T, l *lab, what load) float64 {
	t.Helper()
	order, err := json.Marshal(what)
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
