package castest

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/cas/casdb"
	"cupel.dev/cupel/internal/trusted/cas/keyfile"
	"cupel.dev/cupel/internal/trusted/cas/server"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
)

// Env is a CAS in this process, on loopback, with its state in a folder.
type Env struct {
	Dir       string
	Platform  *simtee.Platform
	CAS       *cas.CAS
	Owners    string
	Instances string
	Identity  ident.KeyHash

	observe Observe
	stop    func()
	tokens  tokens
}

// Options change how an Env's CAS runs.
type Options struct {
	Dir             string // reuse state; empty: a fresh folder
	Now             func() time.Time
	KeepAlive       time.Duration
	AllowUnattested bool
	Observe         Observe // is told of every reply to the Env's owners and instances
	NoSimulation    bool    // the CAS is not given the simulated root
	Owners          string  // address of the owners' API; empty: a free port
	MaxConnections  int     // of each API; 0: the server's own limit
}

// Start runs a CAS until the test ends or Stop is called.
func Start(t testing.TB, o Options) *Env {
	t.Helper()
	e, err := Open(t.TempDir(), o, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)

	return e
}

// Open is Start with its error; scratch is used where Options name no folder.
func Open(scratch string, o Options, log *slog.Logger) (*Env, error) {
	e := &Env{Dir: o.Dir, Owners: o.Owners}
	e.tokens.provider = ident.KeyHash{0x77}
	e.tokens.made = map[ident.SessionName]wide{}

	if e.Dir == "" {
		e.Dir = scratch
	}

	if err := e.recall(); err != nil {
		return nil, err
	}

	now := o.Now
	if now == nil {
		now = time.Now
	}

	var err error
	if e.Platform, err = simtee.Open(filepath.Join(e.Dir, "platform"), now); err != nil {
		return nil, err
	}

	roots := dcap.Roots{}
	roots.Production = append(roots.Production, dcap.IntelRoot())
	if !o.NoSimulation {
		roots.Simulation = append(roots.Simulation, e.Platform.Root())
	}

	verifier, err := dcap.New(roots)
	if err != nil {
		return nil, err
	}

	key, err := openKey(filepath.Join(e.Dir, "cas.key"))
	if err != nil {
		return nil, err
	}

	ctx, cancel := context.WithCancel(context.Background())

	db, err := casdb.Open(ctx, filepath.Join(e.Dir, "cas.db"))
	if err != nil {
		cancel()
		return nil, err
	}

	c, err := cas.Open(ctx, cas.Config{
		Store:           db,
		Sealer:          key,
		Verifier:        verifier,
		Log:             log,
		Now:             now,
		KeepAlive:       o.KeepAlive,
		AllowUnattested: o.AllowUnattested,
	})
	if err != nil {
		cancel()
		_ = db.Close()
		return nil, err
	}

	e.CAS = c
	e.Identity = c.Identity().Hash()
	err = e.serve(ctx, cancel, db, server.New(server.Config{
		CAS:            c,
		Log:            log,
		Version:        "test",
		SimulationRoot: string(e.Platform.RootPEM()),
		MaxConnections: o.MaxConnections,
		Evidence: func(_ context.Context, d evidence.Data64) (evidence.Evidence, error) {
			return e.Platform.Quote(simtee.Launch{Measurement: CASMeasurement, Signer: simtee.Signer(), Debug: true}, d)
		},
	}))

	return e, err
}

// CASMeasurement is what the Env's platform says about its CAS.
var CASMeasurement = ident.Measurement{0xca, 0x5}

// serve runs the CAS and both of its APIs, and makes what Stop ends them with.
func (e *Env) serve(ctx context.Context, cancel func(), db *casdb.DB, srv *server.Server) error {
	var ends []chan struct{}
	e.stop = func() {
		cancel()
		for _, end := range ends {
			<-end
		}
		e.CAS.Close()
		_ = db.Close()
	}

	run := func(f func(context.Context) error) {
		end := make(chan struct{})
		ends = append(ends, end)
		go func() { defer close(end); _ = f(ctx) }()
	}

	run(e.CAS.Run)
	for _, l := range []struct {
		addr  *string
		serve func(context.Context, net.Listener) error
	}{{&e.Owners, srv.ServeOwners}, {&e.Instances, srv.ServeInstances}} {
		ln, err := net.Listen("tcp", cmp.Or(*l.addr, "127.0.0.1:0"))
		if err != nil {
			e.Stop()
			return err
		}

		*l.addr = ln.Addr().String()
		run(func(ctx context.Context) error { return l.serve(ctx, ln) })
	}

	return nil
}

// openKey loads the key of an earlier Env, or makes one.
func openKey(path string) (*keyfile.Sealer, error) {
	if _, err := os.Stat(path); err != nil {
		return keyfile.Create(path)
	}
	return keyfile.Load(path)
}

// Stop ends the CAS; its folder stays.
func (e *Env) Stop() {
	if e.stop != nil {
		e.stop()
		e.stop = nil
	}
}

// Root is the digest of the root of the Env's simulated platform.
func (e *Env) Root() ident.Digest { return ident.Sum(e.Platform.Root().Raw) }

// Owner returns an owner with a key of their own.
func (e *Env) Owner(t testing.TB) *Owner {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}

	o := NewOwner(e.Owners, e.Identity, key)
	o.Observe = e.observe
	o.Root = e.Root()
	if err := e.know(key.Hash); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(o.Close)

	return o
}

// Instance returns an honest instance, under a wide grant.
func (e *Env) Instance(t testing.TB, session ident.SessionName, service ident.ServiceName, m ident.Measurement) *Instance {
	t.Helper()

	in, err := NewInstance(e.Instances, e.Identity, e.Platform, session, service, m)
	if err != nil {
		t.Fatal(err)
	}

	in.Observe = e.observe
	in.Grant = e.Token(t.Context(), session, service)

	return in
}
