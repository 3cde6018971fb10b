// Command release measures what a release costs the CAS: CPU of a real cupel-cas
// per new connection, evidence verified, as a ratio to a bare net/http server
// that makes the same TLS 1.3 mutual handshake and takes and gives as many bytes as
// that very release. Beside the usual case, many in flight with collateral that the
// CAS saw before, stand the others: one at a time, and collateral that it never saw.
//
// Rounds are interleaved, so that whatever else the machine does meets all of
// them; the result is the median of the rounds' ratios, with their spread.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/bench/peer"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/testing/castest"
	"cupel.dev/cupel/internal/trusted/wire"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench/release:", err)
		os.Exit(1)
	}
}

// code is what all instances run.
var code = ident.Measurement{0x11}

// session is what they are released for: with a secret alone, and with a certificate.
const session = `version: "0.3"
name: bench
services:
  - {name: secret, mrenclaves: [CODE], command: app, environment: {TOKEN: "$$SCONE::token$$"}}
  - name: certificate
    image_name: certified
    mrenclaves: [CODE]
    command: app
    environment: {TOKEN: "$$SCONE::token$$"}
secrets:
  - {name: token, kind: ascii, value: "an access token of forty characters ...."}
  - {name: ca_key, kind: private-key}
  - {name: ca, kind: x509-ca, private_key: ca_key, common_name: CA}
  - {name: cert, kind: x509, issuer: ca, common_name: app, dns: [localhost]}
images:
  - name: certified
    injection_files:
      - {path: /run/cupel/tls/cert.pem, content: "$$SCONE::cert:crt$$$$SCONE::cert:chain$$"}
      - {path: /run/cupel/tls/key.pem, content: "$$SCONE::cert:privatekey$$"}
security: {attestation: {tolerate: ["simulation:$SIMULATION_ROOT"]}}
`

// bench is the whole set-up.
type bench struct {
	platform *simtee.Platform
	issued   time.Time // when all collateral was issued: older than what was seen is refused
	cas      *peer.Server
	bare     map[string]*peer.Server // by the kind of release that it is the peer of
	identity ident.KeyHash
	token    owners.GrantToken
	inFlight int
	ops      int
}

// run starts everything and measures all ways.
func run() error {
	binary := flag.String("cas", "bin/cupel-cas", "the cupel-cas to measure")
	rounds := flag.Int("rounds", 9, "interleaved rounds")
	inFlight := flag.Int("in-flight", 64, "requests at once")
	ops := flag.Int("ops", 1500, "requests a round and kind")
	asJSON := flag.Bool("json", false, "print JSON")
	bareSize := flag.Int("bare", -1, "be the bare server: answer with so many bytes, and listen on descriptor 3")
	profile := flag.String("profile", "", "only releases of this service, for a profiler: secret, certificate, fresh, or bare and one of these")
	flag.Parse()

	if *bareSize >= 0 {
		return peer.ServeBare(*bareSize)
	}

	b := &bench{bare: map[string]*peer.Server{}}
	dir, err := os.MkdirTemp("", "cupel-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	defer b.stop()
	if err := b.start(dir, *binary); err != nil {
		return err
	}

	if *profile != "" {
		_, err := b.with(*inFlight, *ops).round(*profile)
		return err
	}

	if err := b.with(*inFlight, *ops).measure(*rounds, *asJSON, "secret", "certificate", "fresh"); err != nil {
		return err
	}

	return b.with(1, *ops/5).measure(*rounds, *asJSON, "secret", "certificate")
}

// with sets how many requests there are, and at once.
func (b *bench) with(inFlight, ops int) *bench {
	b.inFlight = inFlight
	b.ops = max(ops, 1)
	return b
}

// peerOf begins the name of the bare peer of a kind of release.
const peerOf = "bare "

// targets are what the releases were built for; the other ways have none.
var targets = map[string]float64{"secret": 1.6, "certificate": 2.0}

// start starts the CAS, and a bare peer for each kind of release, as large as that one.
func (b *bench) start(dir, binary string) error {
	var err error
	if b.platform, err = simtee.Open(filepath.Join(dir, "platform"), time.Now); err != nil {
		return err
	}

	b.issued = time.Now()
	if b.platform, err = b.platform.In(simtee.Condition{IssuedAt: b.issued}); err != nil {
		return err
	}

	root := filepath.Join(dir, "root.pem")
	if err := os.WriteFile(root, b.platform.RootPEM(), 0o600); err != nil {
		return err
	}

	// The instances of earlier rounds report nothing: their lapses would be measured too.
	b.cas, err = peer.Start(exec.Command(binary, "--state", filepath.Join(dir, "state"), "--owners", "127.0.0.1:0", "--keep-alive", "10m",
		"--instances", "127.0.0.1:0", "--simulation-root", root, "--ready-fd", "3", "--log-level", "warn"))
	if err != nil {
		return err
	}

	if b.identity, err = ident.ParseKeyHash(b.cas.Identity); err != nil {
		return err
	}

	key, err := castest.NewKey()
	if err != nil {
		return err
	}

	owner := castest.NewOwner(b.cas.Owners, b.identity, key)
	owner.Root = ident.Sum(b.platform.Root().Raw)
	defer owner.Close()

	text := strings.ReplaceAll(session, "CODE", code.String())
	if _, err := owner.Do(context.Background(), http.MethodPost, "/session", []byte(text), nil); err != nil {
		return err
	}

	if err := b.grant(owner); err != nil {
		return err
	}

	self, err := os.Executable()
	if err != nil {
		return err
	}

	for _, kind := range []string{"secret", "certificate", "fresh"} {
		size, err := b.once(kind)
		if err != nil {
			return err
		}
		if b.bare[kind], err = peer.Start(exec.Command(self, "-bare", strconv.Itoa(size))); err != nil {
			return err
		}
	}

	return nil
}

// grant gets the token that every release presents.
func (b *bench) grant(owner *castest.Owner) error {
	const most = 100_000
	made, err := owner.Grant(context.Background(), "bench", map[ident.ServiceName]owners.GrantedService{
		"secret": {Instances: most}, "certificate": {Instances: most},
	})

	if err != nil {
		return err
	}

	key, err := castest.NewKey()
	if err != nil {
		return err
	}

	claimed, err := castest.Claim(context.Background(), b.cas.Instances, b.identity, key, made.Code)
	b.token = claimed.Token
	return err
}

// stop ends all servers.
func (b *bench) stop() {
	for _, s := range b.bare {
		if s != nil {
			s.Stop()
		}
	}

	if b.cas != nil {
		b.cas.Stop()
	}
}

// once makes one request on a new connection and returns the reply's size.
func (b *bench) once(kind string) (int, error) {
	addr, identity, platform := b.cas.Instances, b.identity, b.platform

	kind, bare := strings.CutPrefix(kind, peerOf)
	if bare {
		addr, identity = b.bare[kind].Instances, ident.KeyHash{}
	}

	service := ident.ServiceName(kind)
	if kind == "fresh" { // collateral of its own, which nobody verified before
		var err error
		if platform, err = b.platform.In(simtee.Condition{IssuedAt: b.issued}); err != nil {
			return 0, err
		}
		service = "secret"
	}

	in, err := castest.NewInstance(addr, b.identity, platform, "bench", service, code)
	if err != nil {
		return 0, err
	}

	in.Identity = identity
	in.Grant = b.token
	in.Evidence = func(d evidence.Data64) (evidence.Evidence, error) { return platform.Quote(in.Launch, d) }

	c, err := in.Dial(context.Background())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	req, err := c.Request()
	if err != nil {
		return 0, err
	}

	body, err := json.Marshal(req)
	if err != nil {
		return 0, err
	}

	status, reply, err := c.PostBytes(wire.PathRelease, body)
	if err == nil && status != http.StatusOK {
		err = problem.Read(status, reply)
	}

	return len(reply), err
}

// round makes all requests of one kind and returns the server's CPU a request.
func (b *bench) round(kind string) (time.Duration, error) {
	s := b.cas
	if of, bare := strings.CutPrefix(kind, peerOf); bare {
		s = b.bare[of]
	}

	before, err := s.CPU()
	if err != nil {
		return 0, err
	}

	var next atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, b.inFlight)

	for i := range b.inFlight {
		all.Go(func() {
			for next.Add(1) <= int64(b.ops) && errs[i] == nil {
				_, errs[i] = b.once(kind)
			}
		})
	}

	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, fmt.Errorf("%s: %w", kind, err)
	}

	after, err := s.CPU()
	return (after - before) / time.Duration(b.ops), err
}

// result is the outcome of one kind.
type result struct {
	Kind     string  `json:"kind"`
	InFlight int     `json:"in_flight"`
	Ratio    float64 `json:"ratio"` // median over the rounds
	Least    float64 `json:"least"`
	Most     float64 `json:"most"`
	Target   float64 `json:"target,omitempty"`
	CPU      string  `json:"cpu"` // median a release
	Bare     string  `json:"bare_cpu"`
	Rounds   int     `json:"rounds"`
}

// measure makes the rounds of all kinds and prints each kind's result.
func (b *bench) measure(rounds int, asJSON bool, kinds ...string) error {
	cost := map[string][]time.Duration{}

	for r := -1; r < rounds; r++ { // the first round warms up
		for _, kind := range kinds {
			for _, k := range []string{peerOf + kind, kind} {
				d, err := b.round(k)
				if err != nil {
					return err
				}
				if r >= 0 {
					cost[k] = append(cost[k], d)
				}
			}
		}
	}

	for _, kind := range kinds {
		var ratios []float64
		for i := range rounds {
			ratios = append(ratios, float64(cost[kind][i])/float64(max(cost[peerOf+kind][i], 1)))
		}

		slices.Sort(ratios)

		res := result{
			Kind:     kind,
			InFlight: b.inFlight,
			Ratio:    ratios[rounds/2],
			Least:    ratios[0],
			Most:     ratios[rounds-1],
			Target:   targets[kind],
			CPU:      median(cost[kind]).String(),
			Bare:     median(cost[peerOf+kind]).String(),
			Rounds:   rounds,
		}

		if asJSON {
			if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
				return err
			}
			continue
		}
		fmt.Println(res)
	}

	return nil
}

// String is the result for people.
func (r result) String() string {
	name := r.Kind
	target := ""
	if r.Kind == "fresh" {
		name = "secret, unknown collateral"
	}

	if r.Target > 0 && r.InFlight > 1 {
		target = fmt.Sprintf(", target %.1fx", r.Target)
	}

	return fmt.Sprintf("release, %s, %d in flight: %.2fx a bare handshake and POST of the same sizes (%.2f to %.2f over %d rounds%s); %s against %s CPU",
		name, r.InFlight, r.Ratio, r.Least, r.Most, r.Rounds, target, r.CPU, r.Bare)
}

// median is the middle of them.
func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2].Round(time.Microsecond)
}
