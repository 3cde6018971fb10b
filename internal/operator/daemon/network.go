package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/netcheck"
	"cupel.dev/cupel/internal/operator/node/cni"
	"cupel.dev/cupel/internal/operator/node/sysctl"
	"cupel.dev/cupel/internal/trusted/filelock"
	"cupel.dev/cupel/internal/wording"
)

// checkTimeout is how long `up` waits to learn what stands in the way.
const checkTimeout = 30 * time.Second

// networkConfig is the instances' network, with its state in dir.
func (l layout) networkConfig(dir string) cni.Config {
	return cni.Config{
		Dir:       dir,
		ID:        l.id,
		PluginDir: cni.PluginDir,
		Sysctl:    sysctl.Default(),
	}
}

// openNetwork opens the instances' network, with its state in dir.
func (l layout) openNetwork(dir string, o Options) (*cni.Network, error) {
	cfg := l.networkConfig(dir)
	if o.Subnet != "" {
		var err error
		if cfg.Subnet, err = cni.ParseSubnet(o.Subnet); err != nil {
			return nil, err
		}
	}
	return cni.Open(cfg)
}

// checkNetwork tells what stands in the way of instances and users. It refuses
// nothing: whatever fails is told, as is that it can't be known, and everything else
// works.
func (p *parts) checkNetwork(ctx context.Context, o Options, cas casReady) (failed []netcheck.Probe, unchecked *problem.Error) {
	limit := cmp.Or(o.checkTimeout, checkTimeout)
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	r, err := p.tryNetwork(bounded, p.network, netcheck.Config{CASPort: portNumber(cas.Instances), CASRuns: true, FirstPort: o.FirstPort})
	if ctx.Err() != nil {
		return nil, nil // we end
	}

	if bounded.Err() != nil && err != nil {
		err = problem.New(problem.Unavailable, ruleNetworkUnchecked, "the network could not be tried within %s: %w", problem.Duration(limit), err).
			Fix("cupel check, which takes the time that it needs; where it waits too, another check hangs: ps -ef | grep 'cupel.* check'")
	}
	if err != nil {
		p.log.WarnContext(ctx, "network not checked", "error", err)
		p.told.notChecked(err, p.incidents.Tell)
		return nil, problem.From(err)
	}

	p.told.network(r, p.incidents.Tell)
	return r.Failed(), nil
}

const (
	// tendEvery is how often it is looked whether bridge, forwarding and packet rules
	// are as they have to be.
	tendEvery = 5 * time.Second
	// checkEvery is how often it is tried whether a firewall came into the way.
	checkEvery = 5 * time.Minute
)

// tendNetwork puts right what other programs change of what is ours, and tells it,
// until ctx ends. It also sees a way out of this machine that comes late or changes.
func (p *parts) tendNetwork(ctx context.Context, o Options, cas casReady, e managerapi.Endpoint) error {
	look, check := time.NewTicker(tendEvery), time.NewTicker(checkEvery)
	defer look.Stop()
	defer check.Stop()

	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			found, err := p.network.Restore()
			p.told.restored(ofNetwork, found, err, p.incidents.Tell)
			found, err = p.balancer.Restore(ctx)
			p.told.restored(ofPacketRules, found, err, p.incidents.Tell)

			moved, err := p.moveEndpoint(&e, outside())
			if err != nil {
				p.log.WarnContext(ctx, "this machine's new address not written down", "error", err)
			}
			if moved {
				_, _ = p.checkNetwork(ctx, o, cas)
			}
		case <-check.C:
			_, _ = p.checkNetwork(ctx, o, cas) // which tells what it finds
		}
	}
}

// networkTold is what was told of the network, so that nothing is told twice. The zero
// value has told nothing.
type networkTold struct {
	mu        sync.Mutex
	found     map[foundAgain]*repeats
	broken    map[tended]time.Time // by part: when something could not be put right last
	blocked   string
	instances bool             // something is in the way of what they call
	unchecked bool             // that it could not be tried
	now       func() time.Time // nil: time.Now
}

// foundAgain is one thing that another program may change again and again, without
// the numbers in it.
type foundAgain struct {
	part  tended
	found string
}

// repeats are how often that was found, and not told, since it was told.
type repeats struct {
	told  time.Time
	found string // as it was told, with its numbers
	times int
}

// repeatEvery is how often the same thing is told at most.
const repeatEvery = time.Hour

// quietFor is how long nothing may be found before what could not be put right is over.
const quietFor = time.Minute

// restored tells what was found and put right, at once and then every hour how often
// that was. That something could not be put right is told once, and once that it is
// over: when for a while nothing was found any more.
func (t *networkTold) restored(part tended, found string, err error, tell func(manager.Incident)) {
	t.mu.Lock()
	defer t.mu.Unlock()

	if errors.Is(err, context.Canceled) {
		return // we end: it says nothing
	}

	t.restoredAgain(part, found, tell)
	last, broken := t.broken[part]
	switch {
	case err != nil && !broken:
		tell(manager.Incident{Warning: true, Reason: part.broken, Message: err.Error() + "; it is tried again every few seconds"})
		fallthrough
	case err != nil, broken && found != "":
		if t.broken == nil {
			t.broken = map[tended]time.Time{}
		}
		t.broken[part] = t.clock()
	case broken && t.clock().Sub(last) >= quietFor:
		tell(manager.Incident{Reason: part.mended, Message: "nothing was wrong for a minute any more"})
		delete(t.broken, part)
	}
}

func (t *networkTold) clock() time.Time {
	if t.now != nil {
		return t.now()
	}
	return time.Now()
}

// digits are what differs from time to time in a message about one and the same thing.
var digits = regexp.MustCompile(`\b[0-9]+\b`)

// restoredAgain tells what was found and put right: at once, and then every hour how often.
// Callers hold mu.
func (t *networkTold) restoredAgain(part tended, found string, tell func(manager.Incident)) {
	now := t.clock()
	for key, r := range t.found {
		switch {
		case key.part != part || now.Sub(r.told) < repeatEvery:
		case r.times == 0:
			delete(t.found, key)
		default:
			message := fmt.Sprintf("%s; that was found again %d times in the last hour: something does it over and over", r.found, r.times)
			tell(manager.Incident{Warning: true, Reason: part.restored, Message: message})
			*r = repeats{told: now, found: r.found}
		}
	}
	if found == "" {
		return
	}

	key := foundAgain{part, digits.ReplaceAllString(found, "some")}
	if r := t.found[key]; r != nil {
		r.times++
		return
	}

	tell(manager.Incident{Warning: true, Reason: part.restored, Message: found})
	if t.found == nil {
		t.found = map[foundAgain]*repeats{}
	}
	t.found[key] = &repeats{told: now, found: found}
}

// network tells what is in the way, and when that is over.
func (t *networkTold) network(r netcheck.Report, tell func(manager.Incident)) {
	t.mu.Lock()
	defer t.mu.Unlock()

	t.unchecked = false
	t.instances = r.InstancesWay()
	now := "" // without mends, which name rules by numbers that a reload changes
	for _, p := range r.Failed() {
		now += p.Name + ": " + p.Cause + "\n"
	}

	switch now {
	case t.blocked:
	case "":
		tell(manager.Incident{Reason: reasonNetworkClear, Message: "nothing of this machine is in the way of instances and users any more"})
	default:
		tell(manager.Incident{Warning: true, Reason: reasonNetworkBlocked, Message: r.Problem().Error()})
	}
	t.blocked = now
}

// inTheWay says whether the last check found something in the way of what instances call.
func (t *networkTold) inTheWay() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.instances
}

// notChecked tells, once, that it isn't known what is in the way.
func (t *networkTold) notChecked(err error, tell func(manager.Incident)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.unchecked {
		tell(manager.Incident{Warning: true, Reason: string(ruleNetworkUnchecked), Message: err.Error()})
	}
	t.unchecked = true
}

// lockCheck waits until no other check of the installation is at work. Closing the file
// ends the lock.
func lockCheck(ctx context.Context, dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "check.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}

	if err := filelock.Wait(ctx, lock); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("another check is at work: %w", err)
		}
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// printServing writes what serves for programs.
func (c *cli) printServing(s Serving) error {
	return json.NewEncoder(wording.JSONWriter(c.out)).Encode(struct {
		managerapi.Endpoint
		Network   []netcheck.Probe `json:"network,omitempty"`
		Unchecked *problem.Error   `json:"network_unchecked,omitempty"`
		Service   string           `json:"service,omitempty"`
		Dropped   []string         `json:"dropped,omitempty"`
		Taken     []string         `json:"taken_ports,omitempty"`
	}{s.Endpoint, s.Network, s.Unchecked, s.Service, s.Dropped, s.TakenPorts})
}
