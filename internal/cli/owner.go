package cli

import (
	"context"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/home"
	"cupel.dev/cupel/internal/trusted/owner/reference"
	"cupel.dev/cupel/internal/wording"
)

// ownerSide is what the owner's commands need: the owner's folder and identity.
type ownerSide struct {
	g   *globals
	dir *home.Dir
	id  *home.KeyPair
}

func (g *globals) ownerSide(ctx context.Context) (*ownerSide, error) {
	dir, err := g.ownerDir()
	if err != nil {
		return nil, err
	}

	id, err := g.identity(ctx, dir)
	if err != nil {
		return nil, err
	}

	return &ownerSide{g, dir, id}, nil
}

// identity is the owner's key pair, made on first use by commands that do something.
func (g *globals) identity(ctx context.Context, dir *home.Dir) (*home.KeyPair, error) {
	if g.completing && !g.haveOwnKey() {
		return nil, problem.New(problem.NotFound, problem.RuleOwnerIdentity, "there is no owner's key yet")
	}
	return dir.KeyPair(ctx, g.now)
}

// dial returns a client of the CAS at addr that begins with pin (nil: none) and
// keeps what it learns about a pinned CAS.
func (o *ownerSide) dial(ctx context.Context, addr string, pin *home.Pin) (*client.CAS, error) {
	opts := client.CASOptions{
		Certificate:   &o.id.Certificate,
		Patience:      o.g.wait,
		Now:           o.g.now,
		RefusedAtOnce: pin == nil && !o.g.waitGiven, // one that was there before may be restarting
		Waiting: func(why error) {
			o.g.warnf("The CAS at %s does not answer (%s): trying for up to %s (--wait).", addr, wording.Words(why), problem.Duration(o.g.wait))
		},
		Save: func(p client.Pin) error { return o.keepHead(ctx, addr, p) },
	}

	if pin != nil {
		opts.Pin = &client.Pin{Identity: pin.Identity, Head: pin.Head}
	}
	return client.NewCAS(ident.Address(addr), opts)
}

// keepHead moves the kept audit head of a pinned CAS on, never back.
func (o *ownerSide) keepHead(ctx context.Context, addr string, p client.Pin) error {
	return o.dir.UpdatePins(ctx, func(pins home.Pins) error {
		if old, ok := pins[addr]; ok && old.Identity == p.Identity && p.Head.Seq > old.Head.Seq {
			old.Head = p.Head
			pins[addr] = old
		}
		return nil
	})
}

// cas returns a client of an attested CAS: the one at addr, or else the one that
// was attested last.
func (o *ownerSide) cas(ctx context.Context, addr string) (*client.CAS, home.Pin, error) {
	addr, pin, err := o.pinned(addr)
	if err != nil {
		return nil, home.Pin{}, err
	}
	c, err := o.dial(ctx, addr, &pin)
	return c, pin, err
}

// pinned returns the address and pin of an attested CAS: the one at addr, or
// else the one that was attested last.
func (o *ownerSide) pinned(addr string) (string, home.Pin, error) {
	pins, err := o.dir.Pins()
	if err != nil {
		return "", home.Pin{}, err
	}

	if addr == "" {
		addr = lastAttested(pins)
	}
	if addr == "" {
		return "", home.Pin{}, problem.New(problem.Unauthenticated, problem.RuleCASNotAttested, "no CAS was attested yet").Fix("run: cupel cas attest ADDRESS")
	}

	if addr, err = wholeAddress(addr); err != nil {
		return "", home.Pin{}, err
	}
	pin, ok := pins[addr]
	if !ok {
		return "", pin, problem.New(problem.Unauthenticated, problem.RuleCASNotAttested, "the CAS at %s was not attested yet", addr).Fix("run: cupel cas attest %s", addr)
	}
	return addr, pin, nil
}

// wholeAddress is a CAS's address with the port that it may leave out.
func wholeAddress(addr string) (string, error) {
	whole, err := client.Address(ident.Address(addr))
	return string(whole), err
}

func lastAttested(pins home.Pins) (addr string) {
	for _, a := range sortedKeys(pins) {
		if addr == "" || pins[a].Attested.After(pins[addr].Attested) {
			addr = a
		}
	}
	return addr
}

// casOf returns a client of the CAS that holds a session: the one named, or the
// one where this owner created it.
func (o *ownerSide) casOf(ctx context.Context, name ident.SessionName, addr string) (*client.CAS, home.Pin, error) {
	addr, err := o.casAddress(name, addr)
	if err != nil {
		return nil, home.Pin{}, err
	}
	return o.cas(ctx, addr)
}

// casAddress is where that CAS is; empty: nothing here says it.
func (o *ownerSide) casAddress(name ident.SessionName, addr string) (string, error) {
	if addr != "" {
		return addr, nil
	}

	sessions, err := o.dir.Sessions()
	return sessions[name].CAS, err
}

// sessionAt reads the name of a session and returns a client of its CAS, as casOf
// finds it, under the owner's identity. The caller closes it.
func (g *globals) sessionAt(ctx context.Context, arg, addr string) (ident.SessionName, *client.CAS, error) {
	name, err := parseSessionArg(arg)
	if err != nil {
		return "", nil, err
	}

	side, err := g.ownerSide(ctx)
	if err != nil {
		return "", nil, err
	}

	c, _, err := side.casOf(ctx, name, addr)
	return name, c, err
}

// vouchedFor returns the newest measurement of a runtime that the owner vouched for.
func (o *ownerSide) vouchedFor(runtime string) (ident.Measurement, bool, error) {
	values, err := o.dir.Values()
	if err != nil {
		return ident.Measurement{}, false, err
	}

	newest, ok := reference.Newest(values, runtime)
	return newest.Measurement, ok, nil
}
