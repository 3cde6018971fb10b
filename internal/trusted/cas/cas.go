package cas

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/quota"
)

// Verifier turns evidence into claims: dcap.Verifier.
type Verifier interface {
	Verify(ev evidence.Evidence, now time.Time) (evidence.Claims, error)
}

// Config is what a CAS is made of. Store, Sealer, Verifier and Log are required.
type Config struct {
	Store    journal.Store
	Sealer   journal.Sealer
	Verifier Verifier
	Log      *slog.Logger
	// Now is the clock by which certificates and collateral are judged; nil: time.Now.
	Now func() time.Time
	// KeepAlive is how often instances report; 0: 10 s.
	KeepAlive time.Duration
	// Reports is how many reports a second are taken: where there are more
	// instances, each reports more rarely; 0: 400.
	Reports int
	// AllowUnattested lets sessions say `mode: none`.
	AllowUnattested bool
	// Quotas bound what is kept; zero: the defaults.
	Quotas quota.Limits
	// Room answers nil if there is room for another session beside what the ends of
	// instances and the tags of volumes take; nil: there is.
	Room func() error
}

// missedReports is how many keep-alives an instance may miss before it lapses.
const missedReports = 3

// clockTolerance is how far the clock may stand behind the latest time in the
// audit log before releases are refused.
const clockTolerance = 5 * time.Minute

// CAS is the service without its transport. Safe for concurrent use; the
// package comment has the locking rule.
type CAS struct {
	journal   *journal.Journal
	identity  *Identity
	verifier  Verifier
	log       *slog.Logger
	now       func() time.Time
	keepAlive time.Duration
	reports   int  // that are taken in a second
	unsafe    bool // AllowUnattested

	sessions  sync.Map // ident.SessionName -> *sessionState
	instances sync.Map // ident.InstanceID -> *instance
	grants    sync.Map // owners.GrantID -> *grant
	platforms platforms

	room   func() error // nil: there is room
	ledger *ledger
	parser parser
	living atomic.Int64  // instances with rights
	loaded atomic.Int64  // what the loaded sessions weigh
	tight  chan struct{} // gets a token when they weigh too much

	beat  atomic.Pointer[time.Time] // when this process was last seen to run
	stood atomic.Pointer[time.Time] // when it ran again after it had stood still; nil: never
}

// Caller is who asks: the key of the TLS client certificate (zero: none), the
// request's id and its source.
type Caller struct {
	Key     ident.KeyHash
	Request string
	// Address is where the request came from; the zero one: unknown.
	Address netip.Addr
}

// Open takes over the state: it replays the audit log, checks its signature,
// makes the identity on first use, and gives every running instance a fresh
// grace period.
func Open(ctx context.Context, cfg Config) (*CAS, error) {
	if cfg.Store == nil || cfg.Sealer == nil || cfg.Verifier == nil || cfg.Log == nil {
		return nil, errors.New("cas: store, sealer, verifier and log are required")
	}

	c := &CAS{
		verifier:  cfg.Verifier,
		log:       cfg.Log,
		now:       cfg.Now,
		keepAlive: cfg.KeepAlive,
		reports:   cfg.Reports,
		unsafe:    cfg.AllowUnattested,
		room:      cfg.Room,
		ledger:    newLedger(cfg.Quotas),
		parser:    newParser(),
		tight:     make(chan struct{}, 1),
	}

	if c.now == nil {
		c.now = time.Now
	}
	if c.keepAlive <= 0 {
		c.keepAlive = 10 * time.Second
	}
	if c.reports <= 0 {
		c.reports = defaultReports
	}

	c.journal = journal.New(cfg.Store, cfg.Sealer, cfg.Log, c.now)
	head, err := c.journal.Replay(ctx)
	if err != nil {
		return nil, err
	}

	started := journal.Change{Event: owners.EventStarted}
	if head.Seq == 0 {
		id, row, err := newIdentity(c.now())
		if err != nil {
			return nil, err
		}
		c.identity = id
		started.Rows = []journal.Write{row}
	} else if c.identity, err = loadIdentity(ctx, c.journal); err != nil {
		return nil, err
	}

	if err := c.journal.Start(c.identity.key, head); err != nil {
		return nil, err
	}

	if err := c.loadAll(ctx); err != nil {
		c.journal.Close()
		return nil, err
	}

	if _, err := c.journal.Commit(ctx, started); err != nil {
		c.journal.Close()
		return nil, fmt.Errorf("record the start: %w", err)
	}
	return c, nil
}

// loadAll reads into memory what has to be there from the start.
func (c *CAS) loadAll(ctx context.Context) error {
	if err := c.platforms.load(ctx, c.journal); err != nil {
		return err
	}
	if err := c.countAll(ctx); err != nil {
		return err
	}
	if err := c.loadGrants(ctx); err != nil {
		return err
	}
	return c.loadInstances(ctx)
}

// Run watches over lapses until ctx ends or the store breaks. The CAS answers
// without it, but nothing lapses.
func (c *CAS) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	c.heartbeat()
	g.Go(func() error { return c.every(ctx, c.heartbeat) })
	g.Go(func() error { return c.every(ctx, func() { c.lapses(ctx) }) })
	g.Go(func() error { return c.every(ctx, func() { c.sweep(ctx) }) })

	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-c.tight:
				c.evict(c.now())
			}
		}
	})

	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-c.journal.Failed():
			return c.journal.Broken()
		}
	})
	return g.Wait()
}

// Close commits what is queued and ends; the Store stays open.
func (c *CAS) Close() { c.journal.Close() }

// Identity is the CAS's own key and certificates.
func (c *CAS) Identity() *Identity { return c.identity }

// Head is the signed head of the audit log as of the last commit.
func (c *CAS) Head() owners.SignedHead { return c.journal.Head() }

// Now is the CAS's clock.
func (c *CAS) Now() time.Time { return c.now() }

// Log returns at most limit entries after the given number, none beyond the
// returned head.
func (c *CAS) Log(ctx context.Context, after uint64, limit int) ([]owners.Entry, owners.SignedHead, error) {
	return c.journal.Entries(ctx, after, limit)
}

// Healthy reports whether changes can still be committed.
func (c *CAS) Healthy() error {
	if err := c.journal.Healthy(); err != nil {
		return err
	}
	return c.checkClock(c.now())
}

// checkClock holds the clock against the log's latest time. Collateral and
// certificates that have expired would pass again if it could be set back.
func (c *CAS) checkClock(now time.Time) error {
	high := time.Unix(0, c.Head().Time)
	if high.Sub(now) <= clockTolerance {
		return nil
	}
	return problem.New(problem.Unavailable, ruleClockWentBack, "the clock says %s", now.UTC().Format(time.RFC3339)).
		Want("not before %s, the time of the audit log's last entry", high.UTC().Format(time.RFC3339)).
		Fix("set the clock of the CAS's machine right. Where it is right, and was ahead at that entry, the CAS releases again from %s on",
			high.Add(-clockTolerance).UTC().Format(time.RFC3339))
}
