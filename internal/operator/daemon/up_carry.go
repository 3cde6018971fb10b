package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sync/errgroup"

	"cupel.dev/cupel/internal/operator/registry"
)

// carriers are the parts that carry instances: registry, containerd, node, CAS. They
// outlive what takes requests: apps that are stopped still commit and report
// through them.
type carriers struct {
	parts *errgroup.Group
	ctx   context.Context //nolint:containedctx // ends with the first part that fails
	base  context.Context //nolint:containedctx // ends with end alone
	end   func()
}

// carry starts the carriers, but for the CAS.
func (p *parts) carry(ctx context.Context, o Options, ports *ports) (carriers, error) {
	var c carriers
	store, err := ports.listen(registryListener, o.RegistryListen)
	if err != nil {
		return c, err
	}
	p.onClose(func() error { return ignoreClosed(store.Close()) })

	if err := p.openNode(ctx, o, store.Addr().String()); err != nil {
		return c, err
	}

	if p.registry, err = registry.Open(ctx, p.path("registry"), p.log); err != nil {
		return c, err
	}
	p.onClose(p.registry.Close)

	c.base, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.parts, c.ctx = errgroup.WithContext(c.base)
	c.parts.Go(named("registry", func() error { return p.registry.Serve(c.ctx, store) }))
	c.parts.Go(named("registry's garbage", func() error {
		return p.registry.CollectGarbage(c.ctx, func(err error) { p.troubles.Note("remove from the registry what no tag leads to", "", err) })
	}))
	c.parts.Go(named("containerd", func() error { return p.daemon.Run(c.ctx) }))
	c.parts.Go(named("node", func() error { return p.node.Run(c.ctx) }))
	return c, nil
}

// carryCAS starts the CAS too, and tells instances where it is.
func (p *parts) carryCAS(ctx context.Context, c carriers, o Options, ports *ports) (casReady, error) {
	cas, err := p.startCAS(ctx, o, ports)
	if err != nil {
		return casReady{}, err
	}

	c.parts.Go(named("CAS", func() error { return p.cas.run(c.ctx, cas) }))
	p.node.SetCASAddr(net.JoinHostPort(p.network.Gateway().String(), portOf(cas.ready.Instances)))
	return cas.ready, nil
}

// takeRequests starts the CAS, and then manager and API until ctx or one of the
// carriers ends.
func (p *parts) takeRequests(ctx context.Context, c carriers, s startup) error {
	cas, err := p.carryCAS(ctx, c, s.options, s.ports)
	if err != nil {
		return err
	}

	requests, end := context.WithCancel(ctx)
	defer end()
	defer context.AfterFunc(c.ctx, end)()
	g, run := errgroup.WithContext(requests)

	if err := p.serve(run, g, s, cas); err != nil {
		end()
		return errors.Join(err, g.Wait())
	}
	return g.Wait()
}

// named says in a part's error which one it was; that ctx ended is none.
func named(part string, f func() error) func() error {
	return func() error {
		if err := f(); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", part, err)
		}
		return nil
	}
}

// ignoreClosed takes it for done that a listener is closed already.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
