package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/wire"
)

const (
	resyncEvery = 5 * time.Second
	// lookAllEvery is how often everything that is the node's is looked at: what is
	// left of instances is in nobody's way for so long.
	lookAllEvery = 30 * time.Second
	memoryEvery  = 2 * time.Second
	// lastWords is how long an instance's log may still grow after its exit if
	// its writer never says that it ended.
	lastWords   = 3 * time.Second
	reapTimeout = 30 * time.Second
	// missingLimit is for how long an instance whose processes run may be unknown to the
	// runtime before it is taken for lost.
	missingLimit = 30 * time.Second
)

// Run watches the runtime and the instances until ctx ends. Instances go on:
// the next process adopts them.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	events := n.cfg.Monitor.Watch(ctx)
	tick := time.NewTicker(resyncEvery)
	defer tick.Stop()

	var looking sync.WaitGroup
	defer looking.Wait()
	looking.Go(func() { n.lookAll(ctx) })

	for {
		select {
		case <-ctx.Done():
			n.shutdown()
			return nil
		case e, ok := <-events:
			if !ok {
				events = nil // only when ctx ended
				continue
			}
			if e.OOM {
				n.mu.Lock()
				if i := n.instances[e.ID]; i != nil {
					i.oom = true
				}
				n.mu.Unlock()
				continue
			}
		case <-tick.C:
		}

		n.note(ctx, "look at instances", "", n.resync(ctx))
	}
}

// lookAll looks at everything again and again. It runs beside resync, so that the end of
// an instance is seen in time although something hangs here.
func (n *Node) lookAll(ctx context.Context) {
	tick := time.NewTicker(lookAllEvery)
	defer tick.Stop()

	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.look(ctx)
			n.letGoAgain(ctx)
		}
	}
}

// shutdown stops serving and watching, and leaves the instances alone.
func (n *Node) shutdown() {
	n.mu.Lock()
	for id, i := range n.instances {
		i.unwatch()
		if i.socket != nil {
			i.socket.close()
		}
		n.cfg.Attester.Close(id)
	}
	n.mu.Unlock()
}

// resync compares what runs with what the table says, records exits and replaces
// log writers that died. The table is looked at before the list of containers: an instance
// that is made between the two isn't taken for one that ended.
func (n *Node) resync(ctx context.Context) error {
	live := n.live()
	containers, err := n.cfg.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}

	byID := map[ident.AttemptID]ContainerState{}
	for _, c := range containers {
		byID[c.ID] = c
	}
	resolvers, servers := resolvConf()

	for _, i := range live {
		c := byID[i.rec.Spec.ID]
		if c.Running {
			n.found(i)
			n.wakeLauncher(ctx, c)
			n.note(ctx, "replace a log writer that died", c.ID, n.tendLog(ctx, c))

			renewed, err := renewResolvConf(filepath.Join(n.dir("etc", string(c.ID)), "resolv.conf"), resolvers, servers)
			n.note(ctx, "give an instance the machine's name servers", c.ID, err)
			if renewed {
				n.cfg.Logger.InfoContext(ctx, "the machine's name servers changed, and the instance's with them", "instance", c.ID)
			}
			continue
		}

		if c.ExitedAt.IsZero() && n.maybeRuns(ctx, i) {
			continue
		}
		n.exitSeen(ctx, i, c)
	}
	return nil
}

// maybeRuns says that an instance which the runtime doesn't know any more still has
// processes, and that it is too early to give it up: a runtime under load or just
// started again leaves out what did not answer it in time. One that stays away is
// ended, since nobody could do so later.
func (n *Node) maybeRuns(ctx context.Context, i *instance) bool {
	id := i.rec.Spec.ID
	if busy, err := n.cfg.Cgroups.Busy(n.cgroup(id)); err != nil || !busy {
		return false
	}

	n.mu.Lock()
	if i.missingSince.IsZero() {
		i.missingSince = time.Now()
	}
	patience := time.Since(i.missingSince) < missingLimit
	n.mu.Unlock()

	if patience {
		return true
	}

	n.note(ctx, "end the processes of a lost instance", id, n.cfg.Cgroups.Kill(n.cgroup(id)))
	return false
}

// found says that the runtime knows the instance.
func (n *Node) found(i *instance) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i.missingSince = time.Time{}
}

// live returns the instances that are whole and of which no end is known.
func (n *Node) live() []*instance {
	n.mu.Lock()
	defer n.mu.Unlock()
	var live []*instance
	for _, i := range n.instances {
		if i.rec.Made && i.rec.Exit == nil {
			live = append(live, i)
		}
	}
	return live
}

// exitSeen records that an instance ended.
func (n *Node) exitSeen(ctx context.Context, i *instance, c ContainerState) {
	id := i.rec.Spec.ID
	e := exit{Code: c.ExitCode, At: c.ExitedAt.UTC()}
	if c.ExitedAt.IsZero() {
		e = exit{Code: 255, At: n.cfg.Now().UTC(), Lost: true}
	}
	mem, memErr := n.cfg.Cgroups.Memory(n.cgroup(id))

	n.mu.Lock()
	if i.rec.Exit != nil || i.removing || n.instances[id] != i {
		n.mu.Unlock()
		return
	}

	// A kill for want of memory that the app survived is not how it ended.
	e.OOM = (i.oom || memErr == nil && mem.OOMKills > 0) && e.Code != 0 && !e.Lost
	e.Killed = i.killed && e.Code != 0 && !e.Lost && !e.OOM
	i.rec.Exit = &e

	i.unwatch()
	close(i.exited)
	n.publishStatus(i)
	n.mu.Unlock()

	time.AfterFunc(lastWords, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.closeEnded(i)
	})

	n.cfg.Logger.InfoContext(ctx, "instance exited", "instance", id, "exit_code", e.Code, "oom", e.OOM)
	n.persist(ctx, i)
	go n.letGo(context.WithoutCancel(ctx), i)
}

// letGo gives back what an instance that ended needs no more: its processes, and its
// address, of which there are few. What people look at stays.
func (n *Node) letGo(ctx context.Context, i *instance) {
	id := i.rec.Spec.ID
	n.reap(ctx, id)

	n.letting.Lock()
	defer n.letting.Unlock()
	i.op.Lock()
	defer i.op.Unlock()

	if n.find(id) != i {
		return // removed meanwhile
	}

	err := n.cfg.Network.Remove(ctx, id, n.dir("netns", string(id)))
	i.offline = err == nil
	n.note(ctx, "give back the address of an instance that ended", id, err)
}

// letGoAgain lets go of instances that ended and of which something is still there.
func (n *Node) letGoAgain(ctx context.Context) {
	n.mu.Lock()
	var ended []*instance
	for _, i := range n.instances {
		if i.rec.Exit != nil && !i.pending && !i.removing {
			ended = append(ended, i)
		}
	}
	n.mu.Unlock()

	for _, i := range ended {
		if _, err := os.Lstat(n.dir("netns", string(i.rec.Spec.ID))); err == nil {
			n.letGo(ctx, i)
		}
	}
}

// reap frees the processes that an ended instance still needs. It takes as long as its log
// is written out, so nobody waits for it.
func (n *Node) reap(ctx context.Context, id ident.AttemptID) {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	n.note(ctx, "let go of what ended", id, n.cfg.Runtime.Reap(ctx, id))
}

// persist writes an instance's record as it is now.
func (n *Node) persist(ctx context.Context, i *instance) {
	n.note(ctx, "write an instance's record", i.rec.Spec.ID, n.explain(n.saveRecord(i, false)))
}

// saveRecord writes an instance's record as it is now, unless it was removed.
func (n *Node) saveRecord(i *instance, sync bool) error {
	i.save.Lock()
	defer i.save.Unlock()

	n.mu.Lock()
	rec := *i.rec
	current := n.instances[i.rec.Spec.ID] == i
	n.mu.Unlock()

	if !current {
		return nil
	}
	return n.journal.save(&rec, sync)
}

// reporter returns what the node socket calls with the launcher's reports.
func (n *Node) reporter(i *instance) func(context.Context, wire.Status) wire.Orders {
	return func(ctx context.Context, s wire.Status) wire.Orders {
		n.mu.Lock()
		changed := i.report(s, n.cfg.Now())
		if changed {
			n.publishStatus(i)
		}
		orders := i.orders()
		n.mu.Unlock()

		if changed {
			n.persist(ctx, i)
		}
		return orders
	}
}

// storing returns what the node socket calls while a volume comes in: with every
// part that arrived, and with 1 and -1 around the time in which nothing arrives
// because the node makes it durable.
func (n *Node) storing(i *instance) func(pushing int) {
	return func(pushing int) {
		n.mu.Lock()
		defer n.mu.Unlock()
		i.lastProgress = time.Now()
		i.pushing += pushing
	}
}

// watch starts the goroutines that look after a running instance.
func (n *Node) watch(i *instance, adopted bool) {
	ctx, cancel := context.WithCancel(context.Background())

	n.mu.Lock()
	defer n.mu.Unlock()

	if i.rec.Exit != nil {
		cancel()
		return
	}

	i.unwatch = cancel
	go n.watchMemory(ctx, i)
	if i.rec.Spec.Port != 0 {
		go n.watchHealth(ctx, i, adopted)
	}
}

// watchMemory keeps what an instance uses of its memory.
func (n *Node) watchMemory(ctx context.Context, i *instance) {
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()

	for {
		if m, err := n.cfg.Cgroups.Memory(n.cgroup(i.rec.Spec.ID)); err == nil {
			n.mu.Lock()
			i.memoryUsed = m.Used
			n.mu.Unlock()
		}

		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
