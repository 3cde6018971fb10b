package cas

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/session"
)

// sessionState is a session in memory: its current version and what outlives
// versions. It is made when a session is asked for, and leaves memory when it is
// idle: see reading, writing and evict.
type sessionState struct {
	name ident.SessionName
	used atomic.Int64 // when it was last asked for, in Unix nanoseconds

	// loadMu is held by who reads the current version into memory; taken before mu.
	loadMu sync.Mutex
	// mu is held for reading by whatever rests on the current version until its
	// commit is done, and for writing by an update.
	mu      sync.RWMutex
	loaded  bool
	gone    bool          // it left memory: another state has its name, or none
	current sessionRecord // zero hash: no version yet, or none any more
	plan    *plan         // of the current version
	weight  int64         // of the plan, roughly, in bytes

	opener atomic.Pointer[payer] // whom it is counted to; nil until that was read

	trail trail

	secretMu sync.Mutex
	secrets  map[string]secrets.Value // guarded by secretMu
	pending  map[string]bool          // what the next release makes afresh; nil until that was read; guarded by secretMu

	volumeMu sync.Mutex
	volumes  map[string]*volume // guarded by volumeMu; their contents by their own

	memberMu sync.Mutex
	members  map[ident.InstanceID]*instance // all remembered instances; guarded by memberMu
	grants   map[owners.GrantID]*grant      // all remembered grants; guarded by memberMu
}

// sessionRecord is the row of a session; each version's text has a row too.
type sessionRecord struct {
	Creator ident.KeyHash `json:"creator"` // who uploaded the current version
	Hash    ident.Digest  `json:"hash"`
	Updated time.Time     `json:"updated"`
	Count   int           `json:"count"` // versions so far
	// Opened is whom the session itself is counted to, Charges whom its versions.
	// A CAS without quotas wrote neither.
	Opened  payer    `json:"opened,omitzero"`
	Charges []charge `json:"charges,omitempty"`
	// Removed says that the session is no more and its name is its creator's.
	Removed time.Time `json:"removed,omitzero"`
}

// versionRecord is the row of a version.
type versionRecord struct {
	Creator  ident.KeyHash `json:"creator"`
	Uploaded time.Time     `json:"uploaded"`
	Text     string        `json:"text"`
}

const (
	prefixSession = "session/"
	prefixVersion = "version/"
	prefixSecret  = "secret/"
)

func sessionRow(name ident.SessionName) journal.RowID {
	return prefixSession + journal.RowID(name)
}

// versionRow is where a version's text lies. Row ids stand in the audit log,
// which anybody may read; a session's hash covers the values that its owner
// gave, so that a short one could be guessed from it. Hence a keyed hash.
func (id *Identity) versionRow(name ident.SessionName, h ident.Digest) journal.RowID {
	mac := hmac.New(sha256.New, id.rowKey)
	mac.Write(h[:])
	mac.Write([]byte(name))
	return journal.RowID(prefixVersion + string(name) + "@" + hex.EncodeToString(mac.Sum(nil)))
}

// secretRow is where a generated value lies.
func (s *sessionState) secretRow(name string) journal.RowID {
	return journal.RowID(prefixSecret + string(s.name) + "@" + name)
}

// reservedElement can't end a session's name: the path of its instances does.
const reservedElement = "instances"

// sessionUnknown says that there is no session of that name.
func sessionUnknown(name ident.SessionName) *problem.Error {
	p := problem.New(problem.NotFound, problem.RuleSessionUnknown, "there is no session %q", name).Fix("check the name, or create the session")
	p.Msg = []string{"Session not found"}
	return p
}

// version reads a version of a session.
func (c *CAS) version(ctx context.Context, name ident.SessionName, hash ident.Digest) (*versionRecord, error) {
	plain, err := c.journal.Read(ctx, c.identity.versionRow(name, hash))
	if err != nil {
		return nil, fmt.Errorf("read session version: %w", err)
	}
	if plain == nil {
		p := problem.New(problem.NotFound, ruleSessionVersionUnknown, "session %q has no version %s", name, hash)
		p.Msg = []string{"Session not found"}
		return nil, p
	}
	var v versionRecord
	if err := json.Unmarshal(plain, &v); err != nil {
		return nil, fmt.Errorf("read session version: %w", err)
	}
	return &v, nil
}

// PutSession creates a session or its next version and returns the version's
// hash. Uploading what is current already changes nothing.
func (c *CAS) PutSession(ctx context.Context, who Caller, text []byte) (owners.Created, error) {
	if who.Key.IsZero() {
		p := problem.New(problem.Unauthenticated, ruleClientCertificate, "no client certificate was presented").
			Want("a TLS client certificate: its key becomes the session's CREATOR").
			Fix("use `cupel session create`, or curl with --cert and --key; a self-signed certificate is enough")
		p.Msg = []string{"Failed to create session", "No client certificate was presented"}
		return owners.Created{}, p
	}
	p, err := c.parse(ctx, text, who.Key)
	if err != nil {
		return owners.Created{}, chained(err, "Failed to create session")
	}

	name := p.session.Name
	lost, err := c.putPlan(ctx, who, p)
	if err != nil {
		return owners.Created{}, chained(err, "Failed to create session '%s'", name)
	}

	created := owners.Created{Hash: p.hash}
	for _, w := range slices.Concat(p.session.Warnings, lost) {
		created.Warnings = append(created.Warnings, []string{w})
	}
	return created, nil
}

// putPlan makes p the current version; lost is what instances can't store any more.
func (c *CAS) putPlan(ctx context.Context, who Caller, p *plan) (lost []string, err error) {
	unlock, err := c.admissible(ctx, who, p)
	if err != nil {
		return nil, err
	}
	defer unlock()

	if same, err := c.mayPut(ctx, who, p); err != nil || same {
		return nil, err
	}

	s, err := c.writing(ctx, p.session.Name)
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	defer c.drop(s)

	if err := s.mayReplace(who, p); err != nil {
		return nil, err
	}
	if s.current.Hash == p.hash {
		return nil, nil
	}
	return c.replace(ctx, who, s, p)
}

// mayPut is the first look at an upload: nobody who may not make it takes the
// session's lock for writing. same says that the version is current already.
func (c *CAS) mayPut(ctx context.Context, who Caller, p *plan) (same bool, err error) {
	s, err := c.looking(ctx, p.session.Name)
	if problem.KindOf(err) == problem.NotFound && !c.journal.Has(sessionRow(p.session.Name)) {
		return false, nil // a new session
	}
	if err != nil {
		return false, err
	}
	defer s.mu.RUnlock()
	return s.current.Hash == p.hash, s.mayReplace(who, p)
}

// admissible checks what doesn't depend on the session's own state. Until unlock
// is called, the session that is the namespace of a new one stays as it is.
func (c *CAS) admissible(ctx context.Context, who Caller, p *plan) (unlock func(), err error) {
	name := string(p.session.Name)
	if p.session.Security.Mode == "none" && !c.unsafe {
		return nil, problem.New(problem.Denied, ruleModeNone, "the session says `mode: none`: its secrets would go to whoever asks").
			Fix("remove the line, or use a CAS that was started with --allow-unattested")
	}

	i := strings.LastIndexByte(name, '/')
	if name[i+1:] == reservedElement {
		return nil, problem.New(problem.Invalid, problem.RuleSessionName, "the session name %q ends in %q", name, reservedElement).
			Fix("choose another last element: this one names the list of a session's instances")
	}
	if i < 0 {
		return func() {}, nil
	}

	parent, err := c.reading(ctx, ident.SessionName(name[:i]))
	if problem.KindOf(err) == problem.NotFound {
		p := problem.New(problem.NotFound, ruleNamespaceUnknown, "there is no session %q, which would be the namespace of %q", name[:i], name).
			Fix("create the namespace's session first")
		p.Msg = []string{fmt.Sprintf("Namespace '%s' not found", name[:i])}
		return nil, p
	}
	if err != nil {
		return nil, err
	}
	if c.journal.Has(sessionRow(p.session.Name)) { // an update is the session's own business
		parent.mu.RUnlock()
		return func() {}, nil
	}
	if !parent.may(who, session.OpCreateSessions) {
		parent.mu.RUnlock()
		return nil, denied("create_sessions", name[:i], "You have insufficient rights to create sessions in namespace %s", name[:i])
	}
	return parent.mu.RUnlock, nil
}

// mayReplace holds an upload against the current version, under s.mu.
func (s *sessionState) mayReplace(who Caller, p *plan) error {
	pred := p.session.Predecessor
	if s.current.Hash.IsZero() {
		if !s.current.Removed.IsZero() && s.current.Creator != who.Key {
			return nameKept(s.name)
		}
		if pred != nil {
			return conflict(rulePredecessorOfNew, "the session is new, but names predecessor %s", pred).
				Fix("remove the line `predecessor`")
		}
		return nil
	}
	if !s.plan.session.Access.Allows(session.OpUpdate, who.Key, s.current.Creator) {
		return denied("update", string(s.name), "You have insufficient rights to update session %s", s.name)
	}
	switch {
	case s.current.Hash == p.hash:
		return nil
	case pred == nil:
		return conflict(problem.RuleSessionNameTaken, "the session %q exists already", s.name).
			Want("a new name, or the current version's hash as predecessor").
			Fix("choose another name, or add `predecessor` to update the session")
	case *pred != s.current.Hash:
		return conflict(rulePredecessorMismatch, "the predecessor is %s", pred).
			Want("%s, the hash of the current version", s.current.Hash).
			Fix("read the session again and start from its current version")
	}
	return nil
}

// conflict refuses an upload for the version that it starts from.
func conflict(rule problem.Rule, format string, args ...any) *problem.Error {
	p := problem.New(problem.Conflict, rule, format, args...)
	p.Msg = []string{"Invalid previous session digest"}
	return p
}

// denied refuses a caller for the access policy.
func denied(right, name, format string, args ...any) *problem.Error {
	p := problem.New(problem.Denied, problem.RuleAccessPolicy, "the caller has no right to %s in session %q", right, name).
		Want("a client key that the session's access_policy lists for %s", right).
		Fix("use the identity that created the session, or ask its owner for the right")
	p.Msg = []string{fmt.Sprintf(format, args...)}
	return p
}

// replace commits the new version and ends the rights of instances that don't
// satisfy it, under s.mu. It says what these can't store any more.
func (c *CAS) replace(ctx context.Context, who Caller, s *sessionState, p *plan) (lost []string, err error) {
	now := c.now().UTC()
	u := s.next(who, p, now)
	if c.room != nil {
		if err := c.room(); err != nil {
			return nil, err
		}
	}
	if err := c.ledger.take(u.who, u.cost, !s.current.Hash.IsZero()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.ledger.give(u.who, u.cost)
		}
	}()

	ch, err := c.putVersion(s, who, p, u.rec)
	if err != nil {
		return nil, err
	}
	withdrawn, ends, err := c.leftOut(ctx, s, who, p, now)
	if err != nil {
		return nil, err
	}
	excluded, err := c.excluded(ctx, s, p, withdrawn, now)
	if err != nil {
		return nil, err
	}

	ends = append(ends, excluded...)
	if err := c.commitEnds(ctx, []journal.Change{ch}, ends); err != nil {
		return nil, err
	}
	c.ledger.settle(u)
	c.keep(s, u.rec, p)
	return lostBy(ends), nil
}

// putVersion makes the change by which a session gets the version p.
func (c *CAS) putVersion(s *sessionState, who Caller, p *plan, rec sessionRecord) (journal.Change, error) {
	row, err := json.Marshal(rec)
	if err != nil {
		return journal.Change{}, fmt.Errorf("marshal session: %w", err)
	}
	version, err := json.Marshal(versionRecord{Creator: who.Key, Uploaded: rec.Updated, Text: p.text})
	if err != nil {
		return journal.Change{}, fmt.Errorf("marshal session: %w", err)
	}
	ch := journal.Change{
		Event:   owners.EventSessionUpdated,
		Actor:   who.Key,
		Request: who.Request,
		Session: s.name,
		Rows:    []journal.Write{{ID: c.identity.versionRow(s.name, p.hash), Plain: version}, {ID: sessionRow(s.name), Plain: row}},
	}
	if s.current.Hash.IsZero() {
		ch.Event = owners.EventSessionCreated
	}
	return ch, nil
}

// GetSession returns a version of a session, the current one without a hash.
func (c *CAS) GetSession(ctx context.Context, who Caller, name ident.SessionName, hash *ident.Digest) (owners.Session, error) {
	out, err := c.getSession(ctx, who, name, hash)
	return out, chained(err, "Failed to read session '%s'", name)
}

func (c *CAS) getSession(ctx context.Context, who Caller, name ident.SessionName, hash *ident.Digest) (owners.Session, error) {
	s, err := c.reading(ctx, name)
	if err != nil {
		return owners.Session{}, err
	}
	defer s.mu.RUnlock()
	if err := s.mayRead(who); err != nil {
		return owners.Session{}, err
	}

	c.noteRead(ctx, s, s.plan, who)
	if hash == nil || *hash == s.current.Hash {
		return owners.Session{Hash: s.current.Hash, Text: s.plan.text}, nil
	}

	v, err := c.version(ctx, name, *hash)
	if err != nil {
		return owners.Session{}, err
	}
	return owners.Session{Hash: *hash, Text: v.Text}, nil
}

// mayRead refuses whoever may not read the session, under s.mu.
func (s *sessionState) mayRead(who Caller) error {
	if s.plan.session.Access.Allows(session.OpRead, who.Key, s.current.Creator) {
		return nil
	}
	return denied("read", string(s.name), "You have insufficient rights to access session %s", s.name)
}

// Instances lists a session's instances.
func (c *CAS) Instances(ctx context.Context, who Caller, name ident.SessionName) (owners.Instances, error) {
	s, err := c.reading(ctx, name)
	if err != nil {
		return owners.Instances{}, chained(err, "Failed to list the instances of session '%s'", name)
	}
	defer s.mu.RUnlock()
	if err := s.mayRead(who); err != nil {
		return owners.Instances{}, chained(err, "Failed to list the instances of session '%s'", name)
	}

	out := owners.Instances{Version: owners.Version, Instances: []owners.Instance{}, Volumes: []owners.Volume{}}
	for _, v := range s.plan.session.Volumes {
		volume, err := s.volume(v.Name).describe(ctx, c.journal)
		if err != nil {
			return owners.Instances{}, chained(err, "Failed to list the instances of session '%s'", name)
		}
		out.Volumes = append(out.Volumes, volume)
	}
	slices.SortFunc(out.Volumes, func(a, b owners.Volume) int { return strings.Compare(a.Name, b.Name) })

	for _, in := range s.all() {
		out.Instances = append(out.Instances, in.describe())
	}
	slices.SortFunc(out.Instances, func(a, b owners.Instance) int {
		if c := a.ReleasedAt.Compare(b.ReleasedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	return out, nil
}

// chained puts SCONE's message chain on an error.
func chained(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	p := *problem.From(err)
	chain := p.Msg
	if len(chain) == 0 {
		chain = []string{p.Error()}
	}
	p.Msg = append([]string{fmt.Sprintf(format, args...)}, chain...)
	return &p
}
