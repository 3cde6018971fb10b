// Command release measures what a release costs the CAS: CPU of a real cupel-cas
// per new connection, evidence verified, as a ratio to a bare net/http server
// that makes the same TLS 1.3 mutual handshake and takes and gives as many bytes.
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

	"cupel.dev/cupel/bench/peer"
	"cupel.dev/cupel/internal/castest"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/release"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench/release:", err)
		os.Exit(1)
	}
}

var code = ident.Measurement{0x11}

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
	cas      *peer.Server
	bare     *peer.Server
	identity ident.KeyHash
	token    release.GrantToken
	inFlight int
	ops      int
}

func run() error {
	binary := flag.String("cas", "bin/cupel-cas", "the cupel-cas to measure")
	rounds := flag.Int("rounds", 9, "interleaved rounds")
	inFlight := flag.Int("in-flight", 64, "requests at once")
	ops := flag.Int("ops", 1500, "requests a round and kind")
	asJSON := flag.Bool("json", false, "print JSON")
	bareSize := flag.Int("bare", -1, "be the bare server: answer with so many bytes, and listen on descriptor 3")
	profile := flag.String("profile", "", "only releases of this service, for a profiler: secret, certificate or bare")
	flag.Parse()
	if *bareSize >= 0 {
		return peer.ServeBare(*bareSize)
	}
	b := &bench{inFlight: *inFlight, ops: *ops}
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
		_, err := b.round(*profile)
		return err
	}
	return b.measure(*rounds, *asJSON)
}

func (b *bench) start(dir, binary string) error {
	var err error
	if b.platform, err = simtee.Open(filepath.Join(dir, "platform"), time.Now); err != nil {
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
	size, err := b.once("secret")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.bare, err = peer.Start(exec.Command(self, "-bare", strconv.Itoa(size)))
	return err
}

// grant gets the token that every release presents.
func (b *bench) grant(owner *castest.Owner) error {
	const most = 100_000
	made, err := owner.Grant(context.Background(), "bench", map[ident.ServiceName]release.GrantedService{
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

func (b *bench) stop() {
	for _, s := range []*peer.Server{b.cas, b.bare} {
		if s != nil {
			s.Stop()
		}
	}
}

// once makes one request on a new connection and returns the reply's size.
func (b *bench) once(kind string) (int, error) {
	addr, identity, service := b.cas.Instances, b.identity, ident.ServiceName(kind)
	if kind == "bare" {
		addr, identity, service = b.bare.Instances, ident.KeyHash{}, "secret"
	}
	in, err := castest.NewInstance(addr, b.identity, b.platform, "bench", service, code)
	if err != nil {
		return 0, err
	}
	in.Identity, in.Grant = identity, b.token
	in.Evidence = func(d attest.Data64) (attest.Evidence, error) { return b.platform.Quote(in.Launch, d) }
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
	status, reply, err := c.PostBytes(release.PathRelease, body)
	if err == nil && status != http.StatusOK {
		err = problem.Read(status, reply)
	}
	return len(reply), err
}

// round makes all requests of one kind and returns the server's CPU a request.
func (b *bench) round(kind string) (time.Duration, error) {
	s := b.cas
	if kind == "bare" {
		s = b.bare
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
	Kind   string  `json:"kind"`
	Ratio  float64 `json:"ratio"` // median over the rounds
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
	Target float64 `json:"target"`
	CPU    string  `json:"cpu"` // median a release
	Bare   string  `json:"bare_cpu"`
	Rounds int     `json:"rounds"`
}

func (b *bench) measure(rounds int, asJSON bool) error {
	kinds := []string{"bare", "secret", "certificate"}
	cost := map[string][]time.Duration{}
	for r := -1; r < rounds; r++ { // the first round warms up
		for _, k := range kinds {
			d, err := b.round(k)
			if err != nil {
				return err
			}
			if r >= 0 {
				cost[k] = append(cost[k], d)
			}
		}
	}
	for kind, target := range map[string]float64{"secret": 1.6, "certificate": 2.0} {
		var ratios []float64
		for i := range rounds {
			ratios = append(ratios, float64(cost[kind][i])/float64(cost["bare"][i]))
		}
		slices.Sort(ratios)
		res := result{
			Kind: kind, Ratio: ratios[rounds/2], Least: ratios[0], Most: ratios[rounds-1], Target: target,
			CPU: median(cost[kind]).String(), Bare: median(cost["bare"]).String(), Rounds: rounds,
		}
		if asJSON {
			if err := json.NewEncoder(os.Stdout).Encode(res); err != nil {
				return err
			}
			continue
		}
		fmt.Printf("release, %-11s  %.2fx a bare handshake and POST (%.2f to %.2f over %d rounds, target %.1fx); %s against %s CPU, %d in flight\n",
			kind, res.Ratio, res.Least, res.Most, rounds, target, res.CPU, res.Bare, b.inFlight)
	}
	return nil
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2].Round(time.Microsecond)
}
