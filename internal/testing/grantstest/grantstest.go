package grantstest

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Rules that a CAS raises, and so does the Fake.
const (
	// ruleGrantClaimed: another key has claimed the code already.
	// Mend: have another code made.
	ruleGrantClaimed problem.Rule = "grant_claimed"

	// ruleGrantMissing: a token is of no grant.
	// Mend: give the token that the CAS gave for the code.
	ruleGrantMissing problem.Rule = "grant_missing"
)

// CAS is a CAS with holders of grants around it.
type CAS struct {
	Addr     ident.Address
	Identity ident.KeyHash
	// Make makes a grant of two instances of client-app and one run of pull_repo,
	// for a session that has both.
	Make func(t *testing.T) owners.GrantCode
	// Withdraw ends a grant as its maker may.
	Withdraw func(t *testing.T, id owners.GrantID)
	// Holders are two implementations that have keys of their own.
	Holders [2]manager.Grants
}

// Run holds implementations to what manager.Grants says.
func Run(t *testing.T, cas CAS) {
	t.Helper()
	a, b := cas.Holders[0], cas.Holders[1]
	ctx := t.Context()

	t.Run("the same key may claim again, another not", func(t *testing.T) {
		code := cas.Make(t)
		first, err := a.Claim(ctx, cas.Addr, code)
		if err != nil {
			t.Fatal(err)
		}
		if first.Grant != code.Grant || first.Token.IsZero() || first.Services["client-app"].Instances != 2 || first.Services["pull_repo"].Runs != 1 || first.Maker.IsZero() {
			t.Errorf("claimed: %+v", first)
		}

		again, err := a.Claim(ctx, cas.Addr, code)
		if err != nil || !again.Token.Equal(first.Token) {
			t.Errorf("the same key again: %v", err)
		}

		_, err = b.Claim(ctx, cas.Addr, code)
		refused(t, err, problem.Conflict, ruleGrantClaimed)
	})

	t.Run("a code whose secret is another's", func(t *testing.T) {
		code := cas.Make(t)
		code.Secret[3] ^= 1
		if _, err := a.Claim(ctx, cas.Addr, code); err == nil || problem.KindOf(err) == problem.Unavailable || problem.KindOf(err) == problem.Internal {
			t.Errorf("Claim: %v", err)
		}
	})

	t.Run("a code of another CAS reaches nobody", func(t *testing.T) {
		code := cas.Make(t)
		code.CAS[0] ^= 1
		_, err := a.Claim(ctx, cas.Addr, code)
		refused(t, err, problem.Unavailable, problem.RuleCASOther)
	})

	t.Run("withdrawn before it was claimed", func(t *testing.T) {
		code := cas.Make(t)
		cas.Withdraw(t, code.Grant)
		if _, err := a.Claim(ctx, cas.Addr, code); err == nil || problem.KindOf(err) == problem.Unavailable {
			t.Errorf("Claim: %v", err)
		}
	})

	t.Run("giving back twice is no error", func(t *testing.T) {
		code := cas.Make(t)
		claimed, err := a.Claim(ctx, cas.Addr, code)
		if err != nil {
			t.Fatal(err)
		}

		for range 2 {
			if err := a.GiveBack(ctx, cas.Addr, cas.Identity, claimed.Token); err != nil {
				t.Errorf("GiveBack: %v", err)
			}
		}

		if _, err := a.Claim(ctx, cas.Addr, code); err == nil {
			t.Errorf("a grant that was given back can be claimed")
		}
	})

	t.Run("who is reached", func(t *testing.T) {
		if err := a.Reach(ctx, cas.Addr, cas.Identity); err != nil {
			t.Errorf("Reach: %v", err)
		}

		other := cas.Identity
		other[0] ^= 1
		refused(t, a.Reach(ctx, cas.Addr, other), problem.Unavailable, problem.RuleCASOther)

		if err := a.Reach(ctx, "127.0.0.1:1", cas.Identity); problem.KindOf(err) != problem.Unavailable {
			t.Errorf("Reach: %v", err)
		}
	})

	t.Run("a CAS that is not there", func(t *testing.T) {
		code := cas.Make(t)
		if _, err := a.Claim(ctx, "127.0.0.1:1", code); problem.KindOf(err) != problem.Unavailable {
			t.Errorf("Claim: %v", err)
		}
		if err := a.GiveBack(ctx, "127.0.0.1:1", cas.Identity, owners.NewGrantToken(code.Grant, [32]byte{})); problem.KindOf(err) != problem.Unavailable {
			t.Errorf("GiveBack: %v", err)
		}
	})
}

func refused(t *testing.T, err error, kind problem.Kind, rule problem.Rule) {
	t.Helper()
	if p := problem.From(err); p == nil || p.Kind != kind || p.Rule != rule {
		t.Errorf("%v; want %s, rule %s", err, kind, rule)
	}
}

// Fake is a CAS in memory. Safe for concurrent use.
type Fake struct {
	Addr     ident.Address
	Identity ident.KeyHash

	mu     sync.Mutex
	down   bool
	grants map[owners.GrantID]*fakeGrant
	gone   []ident.InstanceID
	asked  int // times that anybody tried to reach it
	others []*Fake
}

type fakeGrant struct {
	code  owners.GrantCode
	reply owners.ClaimReply
	by    ident.KeyHash
	ended bool
}

// NewFake returns a CAS without grants.
func NewFake(addr ident.Address, identity ident.KeyHash) *Fake {
	return &Fake{Addr: addr, Identity: identity, grants: map[owners.GrantID]*fakeGrant{}}
}

// Make makes a grant with these terms; its id and token are the Fake's to choose.
func (f *Fake) Make(terms owners.ClaimReply) owners.GrantCode {
	f.mu.Lock()
	defer f.mu.Unlock()
	code := owners.GrantCode{CAS: f.Identity}
	_, _ = rand.Read(code.Grant[:])  // never fails
	_, _ = rand.Read(code.Secret[:]) // never fails

	var mac [32]byte
	copy(mac[:], code.Secret[:])
	terms.Version = wire.ReleaseVersion
	terms.Grant = code.Grant
	terms.Token = owners.NewGrantToken(code.Grant, mac)

	f.grants[code.Grant] = &fakeGrant{code: code, reply: terms}
	return code
}

// Withdraw ends a grant.
func (f *Fake) Withdraw(id owners.GrantID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.grants[id].ended = true
}

// SetDown makes the Fake out of reach, or not.
func (f *Fake) SetDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

// Open lists the grants that have not ended.
func (f *Fake) Open() []owners.GrantID {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []owners.GrantID
	for id, g := range f.grants {
		if !g.ended {
			out = append(out, id)
		}
	}
	return out
}

// Gone lists the instances that the Fake was told are no more.
func (f *Fake) Gone() []ident.InstanceID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]ident.InstanceID(nil), f.gone...)
}

// Asked counts the calls.
func (f *Fake) Asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// Know lets the Fake's holders reach another one too.
func (f *Fake) Know(other *Fake) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.others = append(f.others, other)
}

// at is the Fake that listens at addr, else f.
func (f *Fake) at(addr ident.Address) *Fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.others {
		if o.Addr == addr {
			return o
		}
	}
	return f
}

// Holder is somebody with that key.
func (f *Fake) Holder(key ident.KeyHash) manager.Grants { return fakeHolder{f, key} }

type fakeHolder struct {
	f   *Fake
	key ident.KeyHash
}

// reach refuses who doesn't reach this CAS. Callers hold mu.
func (f *Fake) reach(addr ident.Address, cas ident.KeyHash) error {
	f.asked++
	if f.down || addr != f.Addr {
		return problem.New(problem.Unavailable, problem.RuleCASUnreachable, "the CAS at %s does not answer", addr)
	}
	if cas != f.Identity {
		return problem.New(problem.Unavailable, problem.RuleCASOther, "another CAS answers at %s", addr)
	}
	return nil
}

func (h fakeHolder) Claim(_ context.Context, addr ident.Address, code owners.GrantCode) (owners.ClaimReply, error) {
	h.f = h.f.at(addr)
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if err := h.f.reach(addr, code.CAS); err != nil {
		return owners.ClaimReply{}, err
	}

	g := h.f.grants[code.Grant]
	switch {
	case g == nil || g.code.Secret != code.Secret:
		return owners.ClaimReply{}, problem.New(problem.Denied, problem.RuleGrantCode, "no such code")
	case g.ended:
		return owners.ClaimReply{}, problem.New(problem.Denied, problem.RuleGrantEnded, "the grant has ended")
	case !g.by.IsZero() && g.by != h.key:
		return owners.ClaimReply{}, problem.New(problem.Conflict, ruleGrantClaimed, "another key claimed it")
	}

	g.by = h.key
	return g.reply, nil
}

func (h fakeHolder) Gone(_ context.Context, addr ident.Address, cas ident.KeyHash, token owners.GrantToken, instance ident.InstanceID) error {
	h.f = h.f.at(addr)
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if err := h.f.reach(addr, cas); err != nil {
		return err
	}

	id, _, _ := token.Split()
	if g := h.f.grants[id]; g == nil || !g.reply.Token.Equal(token) {
		return problem.New(problem.Denied, ruleGrantMissing, "no such grant")
	}
	h.f.gone = append(h.f.gone, instance)
	return nil
}

func (h fakeHolder) GiveBack(_ context.Context, addr ident.Address, cas ident.KeyHash, token owners.GrantToken) error {
	h.f = h.f.at(addr)
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if err := h.f.reach(addr, cas); err != nil {
		return err
	}

	id, _, _ := token.Split()
	g := h.f.grants[id]
	if g == nil || !g.reply.Token.Equal(token) {
		return problem.New(problem.Denied, ruleGrantMissing, "no such grant")
	}
	g.ended = true
	return nil
}

func (h fakeHolder) Reach(_ context.Context, addr ident.Address, cas ident.KeyHash) error {
	h.f = h.f.at(addr)
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	return h.f.reach(addr, cas)
}
