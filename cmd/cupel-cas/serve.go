package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/cas/casdb"
	"cupel.dev/cupel/internal/trusted/cas/keyfile"
	"cupel.dev/cupel/internal/trusted/cas/server"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/filelock"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
	"cupel.dev/cupel/internal/version"
)

// ready is the line on --ready-fd: where the CAS serves, or why it doesn't.
type ready struct {
	Owners    string         `json:"owners,omitempty"`
	Instances string         `json:"instances,omitempty"`
	Identity  string         `json:"identity,omitempty"`
	Problem   *problem.Error `json:"problem,omitempty"`
}

// gcPercent lets the heap grow to five times what lives in it: that is a few
// megabytes here, while requests leave much short-lived garbage.
const gcPercent = 400

// serve opens the state, starts the CAS on it, and serves until ctx ends.
func serve(ctx context.Context, o options, log *slog.Logger) (err error) {
	memory := memoryLimit("/")
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memory / 4 * 3) // collect sooner before it gets scarce
	if o.maxConnections == 0 {
		o.maxConnections = connectionsFor(memory, descriptors())
	}

	roots, simRoot, err := trustRoots(ctx, o.simulationRoot)
	if err != nil {
		return err
	}
	verifier, err := dcap.New(roots)
	if err != nil {
		return problem.New(problem.Invalid, problem.RuleRoots, "%w", err)
	}

	if err := os.MkdirAll(o.state, 0o700); err != nil {
		return problem.New(problem.Invalid, problem.RuleStateAccess, "%w", err).Fix("give the CAS a state folder that it may write to")
	}
	lock, err := lockState(o.state)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()

	sealer, err := openKey(o.state)
	if err != nil {
		return err
	}
	db, err := casdb.Open(ctx, dbPath(o.state))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	c, err := cas.Open(ctx, cas.Config{
		Store:           db,
		Sealer:          sealer,
		Verifier:        verifier,
		Log:             log,
		KeepAlive:       o.keepAlive,
		AllowUnattested: o.allowUnattested,
		Quotas:          o.quotas,
		Room:            func() error { return roomIn(o.state) },
	})
	if err != nil {
		return err
	}
	defer c.Close()
	return listen(ctx, o, log, c, simRoot)
}

// listen binds both APIs, tells whoever started this, and serves.
func listen(ctx context.Context, o options, log *slog.Logger, c *cas.CAS, simRoot string) error {
	cfg := server.Config{
		CAS:            c,
		Log:            log,
		SimulationRoot: simRoot,
		Version:        version.Release(),
		MaxConnections: o.maxConnections,
	}

	g, ctx := errgroup.WithContext(ctx)
	if o.evidenceFD >= 0 {
		ev, err := openEvidence(o.evidenceFD)
		if err != nil {
			return err
		}
		cfg.Evidence = ev.quote
		g.Go(func() error { return ev.run(ctx) })
	}

	srv := server.New(cfg)
	owners, err := bind("owners", o.owners)
	if err != nil {
		return err
	}
	defer func() { _ = owners.Close() }()
	instances, err := bind("instances", o.instances)
	if err != nil {
		return err
	}
	defer func() { _ = instances.Close() }()

	g.Go(func() error { return srv.ServeOwners(ctx, owners) })
	g.Go(func() error { return srv.ServeInstances(ctx, instances) })
	g.Go(func() error { return c.Run(ctx) })

	line := ready{
		Owners:    owners.Addr().String(),
		Instances: instances.Addr().String(),
		Identity:  c.Identity().Hash().String(),
	}

	log.Info("serving", "owners", line.Owners, "instances", line.Instances, "identity", line.Identity, "simulation", simRoot != "",
		"max_connections", o.maxConnections)
	if o.allowUnattested {
		log.Warn("unattested sessions are allowed: their secrets go to whoever asks")
	}

	if err := o.starter.tell(line); err != nil {
		return err
	}

	err = g.Wait()
	if errors.Is(err, errPeerGone) {
		log.Info("the attesting parent is gone: ending")
		return nil
	}
	return err
}

// bind listens at addr for the API with this name.
func bind(name, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, problem.New(problem.Unavailable, problem.RulePortTaken, "listen for the %s' API: %w", name, err).
			Fix("stop what uses the port, or choose another with --%s (cupel up: --cas-%s)", name, name)
	}
	return l, nil
}

// starter is whoever started this process and waits for one line on a descriptor.
type starter struct {
	fd   int // negative: nobody waits
	told bool
}

// tell says how the start went; only the first word counts.
func (s *starter) tell(line ready) error {
	if s.fd < 0 || s.told {
		return nil
	}
	s.told = true

	b, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("say ready: %w", err)
	}
	f := os.NewFile(uintptr(s.fd), "ready")
	if f == nil {
		return problem.New(problem.Invalid, ruleFlags, "--ready-fd %d is not open", s.fd)
	}

	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("say ready: %w", err)
	}
	return nil
}

// trustRoots are the maker's own root and, if the operator opts in, a simulated
// platform's. Claims say which one a chain ended in.
func trustRoots(ctx context.Context, simulation string) (dcap.Roots, string, error) {
	roots := dcap.Roots{Production: []*x509.Certificate{dcap.IntelRoot()}}
	if simulation == "" {
		return roots, "", nil
	}

	text, err := atomicfile.ReadNamed(ctx, simulation, 64<<10)
	if ctx.Err() != nil {
		return roots, "", ctx.Err()
	}
	if err != nil {
		return roots, "", problem.New(problem.Invalid, problem.RuleSimulationRoot, "%w", err)
	}

	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		return roots, "", problem.New(problem.Invalid, problem.RuleSimulationRoot, "%s", simulation).Want("one certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return roots, "", problem.New(problem.Invalid, problem.RuleSimulationRoot, "%s: %w", simulation, err)
	}

	roots.Simulation = []*x509.Certificate{cert}
	return roots, string(text), nil
}

// minRoom is what the disk has to have beside what a new session takes. What is less is
// left to those whose instances end and whose volumes are stored.
const minRoom = 4 << 20

// roomIn refuses a disk without room for another session.
func roomIn(state string) error {
	free, known := diskerror.Free(state)
	if !known || free >= minRoom {
		return nil
	}
	return problem.New(problem.Unavailable, diskerror.RuleFull, "%d MB are free where the CAS keeps its state", free>>20).
		Want("at least %d MB, for whatever is new", minRoom>>20).
		Fix("ask the CAS's operator to make room there, then try again")
}

func dbPath(state string) string  { return filepath.Join(state, "cas.db") }
func keyPath(state string) string { return filepath.Join(state, "cas.key") }

// lockState makes sure that one process alone uses the state.
func lockState(state string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(state, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		err = diskerror.Explain(err, state, "the CAS's state")
		if _, explained := errors.AsType[*problem.Error](err); explained {
			return nil, err
		}
		return nil, problem.New(problem.Invalid, problem.RuleStateAccess, "%w", err).
			Want("a file that the CAS's user may write to").Fix("let the CAS's user own its state folder; what lies there as lock and is no file can be removed")
	}

	if err := filelock.Try(f); err != nil {
		return nil, errors.Join(problem.New(problem.Conflict, ruleStateInUse, "another cupel-cas uses %s", state).
			Fix("stop it first"), f.Close())
	}
	return f, nil
}

// openKey loads the sealing key; where there is no state yet, it makes one. The
// key is durable before the first row can be.
func openKey(state string) (*keyfile.Sealer, error) {
	if _, err := os.Lstat(keyPath(state)); errors.Is(err, os.ErrNotExist) && !casdb.Exists(dbPath(state)) {
		return keyfile.Create(keyPath(state))
	}
	return keyfile.Load(keyPath(state))
}
