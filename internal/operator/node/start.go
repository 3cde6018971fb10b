package node

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/operator/node/logfile"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/launch"
)

const (
	minMemory = 16 << 20
	maxPids   = 4096
	// undoLimit is how long a failed Start may take to undo what it began.
	undoLimit = time.Minute
)

// Start implements manager.Backend.
func (n *Node) Start(ctx context.Context, spec manager.InstanceSpec) error {
	if err := checkSpec(spec); err != nil {
		return err
	}

	img, err := n.cfg.Images.Find(ctx, spec.Image)
	if err != nil {
		return err
	}
	imgConfig, err := launch.ParseImageConfig(img.Config)
	if err != nil {
		return err
	}
	launcher, err := n.launcherFile(spec.Launcher)
	if err != nil {
		return err
	}

	i, err := n.claim(spec)
	if i == nil || err != nil {
		return err
	}
	defer i.op.Unlock()

	if err := n.create(ctx, i, imgConfig, launcher); err != nil {
		undone := n.undoStart(ctx, i)
		return errors.Join(n.explain(err), undone)
	}

	n.notify(i)
	n.watch(i, false)
	i.watched = true
	return nil
}

// checkSpec refuses a spec that no instance can be started by, whatever is on the machine.
func checkSpec(spec manager.InstanceSpec) error {
	if !validID.MatchString(string(spec.ID)) {
		return problem.New(problem.Invalid, ruleInstanceID, "instance id %q", spec.ID).Want("1 to 40 of a-z 0-9 -")
	}
	if spec.Memory < minMemory || spec.Memory > 1<<62 {
		return problem.New(problem.Invalid, problem.RuleMemoryLimit, "memory limit of %d bytes", spec.Memory).
			Want("at least %d (16M)", minMemory).Fix("deploy with a larger --memory")
	}

	_, err := launch.ParseVersion(string(spec.Profile))
	return err
}

// undoStart undoes what a failed Start began, even if its context ended. Where that fails
// too the instance stays pending, and Run goes on with it. The op lock is held.
func (n *Node) undoStart(ctx context.Context, i *instance) error {
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	err := n.destroy(undo, i)

	n.mu.Lock()
	defer n.mu.Unlock()
	i.pending = err != nil
	return err
}

// explain names the cause where it is the machine's and a person can mend it.
func (n *Node) explain(err error) error {
	return diskerror.Explain(err, n.cfg.State, "the node's state folder")
}

// claim puts a new instance into the table and returns it with its op lock
// held; nil without an error if the instance is there already.
func (n *Node) claim(spec manager.InstanceSpec) (*instance, error) {
	for {
		n.mu.Lock()
		old := n.instances[spec.ID]
		if old == nil {
			i := newInstance(&record{Spec: spec, CreatedAt: n.cfg.Now()})
			i.op.Lock()
			n.instances[spec.ID] = i
			n.mu.Unlock()
			return i, nil
		}
		n.mu.Unlock()

		// A Start or Remove of this id may be under way: wait for it, look again.
		old.op.Lock()
		n.mu.Lock()
		current := n.instances[spec.ID] == old
		made := old.rec.Made
		ended := old.rec.Exit != nil
		n.mu.Unlock()
		old.op.Unlock()

		switch {
		case !current:
		case ended:
			return nil, problem.New(problem.Conflict, problem.RuleInstanceExited, "instance %q has exited", spec.ID).
				Fix("remove it, or start another one")
		case made:
			return nil, nil
		default:
			return nil, problem.New(problem.Unavailable, ruleInstanceLeftover, "what an earlier start of %q left is not removed yet", spec.ID).
				Fix("see 'cupel events' for what holds it; it is tried again by itself")
		}
	}
}

// create makes everything that an instance is. Its record comes first: should this process
// die on the way, the next one finds by it what to remove.
func (n *Node) create(ctx context.Context, i *instance, img launch.ImageConfig, launcher string) error {
	spec := i.rec.Spec
	if err := n.saveRecord(i, true); err != nil {
		return err
	}

	// Folders and address: what the container is given from outside.
	run, etc := n.dir("run", string(spec.ID)), n.dir("etc", string(spec.ID))
	for _, dir := range []string{run, etc} {
		if err := makeFolder(dir); err != nil {
			return err
		}
	}
	n.note(ctx, "make the folder of an instance's log, which runs without one", spec.ID, n.explain(makeFolder(n.dir("logs", string(spec.ID)))))

	netns := n.dir("netns", string(spec.ID))
	ip, err := n.cfg.Network.Add(ctx, spec.ID, netns)
	if err != nil {
		return err
	}
	host := hostname(spec)
	if err := writeEtc(etc, host, ip, n.cfg.Network.Gateway()); err != nil {
		return err
	}

	n.mu.Lock()
	i.rec.IP = ip
	casAddr := spec.CASAddr
	if casAddr == "" {
		casAddr = n.casAddr
	}
	n.mu.Unlock()

	// The launcher asks on its sockets as soon as it runs.
	if err := n.openSockets(i); err != nil {
		return err
	}

	ociSpec, err := launchSpec(spec.Profile, img, launch.Free{
		CASAddr:          casAddr,
		LASAddr:          launch.LASAddr,
		ConfigID:         spec.Config.String(),
		Grant:            spec.Grant,
		Root:             "rootfs",
		Hostname:         host,
		CgroupsPath:      string(n.cgroup(spec.ID)),
		NetworkNamespace: netns,
		Memory:           int64(spec.Memory),
		Pids:             maxPids,
		CPUShares:        cpuShares(spec.Memory),
		ResolvConf:       etc + "/resolv.conf",
		Hosts:            etc + "/hosts",
		SocketDir:        run,
		Launcher:         launcher,
	})
	if err != nil {
		return err
	}
	err = n.cfg.Runtime.Start(ctx, Container{
		ID:     spec.ID,
		Image:  spec.Image,
		Spec:   ociSpec,
		Labels: map[string]string{"cupel.dev/app": spec.App},
		LogURI: logfile.URI(n.cfg.LogWriter, n.dir("logs", string(spec.ID)), n.cfg.Limits),
	})
	if err != nil {
		return err
	}

	// From here on a process that comes next takes the instance over.
	n.mu.Lock()
	i.rec.Made = true
	n.mu.Unlock()
	return n.saveRecord(i, true)
}

// makeFolder makes a folder that may be there.
func makeFolder(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}

// cpuShares is an instance's weight where CPU time is short. It grows with the instance's
// memory, and 256 MiB have the weight that the kernel gives by default (1024). So one that
// was given little can't take the time of one that was given much, however many threads it
// has.
func cpuShares(memory uint64) int64 {
	return int64(min(max(memory>>18, 64), 1<<17)) // in the bounds of cpu.shares
}

func (n *Node) cgroup(id ident.AttemptID) cgroup.Path { return n.cfg.Cgroup + "/" + cgroup.Path(id) }

// hostname is what the instance calls itself: the app's name and enough of the
// id to tell its instances apart.
func hostname(spec manager.InstanceSpec) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, spec.AppName)

	if len(name) > 20 {
		name = name[:20]
	}
	return strings.Trim(name+"-"+string(spec.ID), "-")
}

// openSockets opens what an instance is served on: its node socket, and its attestation
// socket beside it.
func (n *Node) openSockets(i *instance) error {
	spec := i.rec.Spec
	run := n.dir("run", string(spec.ID))
	s := &nodeSocket{
		id:      spec.ID,
		app:     volumeUser{spec.App, spec.AppName},
		memory:  spec.Memory,
		volumes: n.volumes,
		logger:  n.cfg.Logger,
		report:  n.reporter(i),
		storing: n.storing(i),
		stored:  func(ctx context.Context, err error) { n.note(ctx, "store a volume", spec.ID, err) },
	}
	if err := s.serve(run); err != nil {
		return err
	}

	n.mu.Lock()
	if i.socket != nil { // of a try whose second half failed
		i.socket.close()
	}
	i.socket = s
	n.mu.Unlock()

	return n.cfg.Attester.Open(spec.ID, run, spec.Binding)
}

// destroy frees everything that an instance holds, from any state, record
// last. The instance's op lock is held.
func (n *Node) destroy(ctx context.Context, i *instance) error {
	id := i.rec.Spec.ID
	n.mu.Lock()
	i.unwatch()
	i.removing = true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		i.removing = false // only matters if it stays
		n.mu.Unlock()
	}()

	err := n.cfg.Runtime.Delete(ctx, id)
	n.cfg.Attester.Close(id)
	n.mu.Lock()
	if i.socket != nil {
		i.socket.close()
	}
	n.mu.Unlock()

	i.save.Lock()
	defer i.save.Unlock()
	// What may still have the container's processes keeps its address and folders.
	if err != nil {
		return err
	}
	if err := n.removeTraces(ctx, i); err != nil {
		return err // the record stays: Remove or the next Adopt tries again
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	if n.instances[id] == i {
		delete(n.instances, id)
	}

	n.troubles.Forget(id)
	n.closeEnded(i)
	n.publish(manager.InstanceEvent{
		Status: manager.InstanceStatus{ID: id, App: i.rec.Spec.App}, Removed: true,
	})
	return nil
}

// removeTraces removes what an instance holds beside its container. The op lock is held.
func (n *Node) removeTraces(ctx context.Context, i *instance) error {
	id := i.rec.Spec.ID
	errs := []error{n.removeCgroup(ctx, id)}
	if !i.offline {
		errs = append(errs, n.cfg.Network.Remove(ctx, id, n.dir("netns", string(id))))
	}
	for _, dir := range []string{"run", "etc", "logs"} {
		errs = append(errs, os.RemoveAll(n.dir(dir, string(id))))
	}

	if err := errors.Join(errs...); err != nil {
		return problem.New(problem.Unavailable, problem.RuleCleanup, "clean up instance %s: %w", id, err).Fix("remove it again")
	}
	return n.journal.remove(id)
}

// removeCgroup waits for the last processes of a killed group to be gone.
func (n *Node) removeCgroup(ctx context.Context, id ident.AttemptID) error {
	var err error
	for range 100 {
		if err = n.cfg.Cgroups.Remove(n.cgroup(id)); !errors.Is(err, syscall.EBUSY) {
			return err
		}

		if kerr := n.cfg.Cgroups.Kill(n.cgroup(id)); kerr != nil {
			return kerr
		}

		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
	return err
}

// closeEnded closes the channels that tell that nothing more will come; Node.mu is held.
func (n *Node) closeEnded(i *instance) {
	for _, c := range []chan struct{}{i.exited, i.silent} {
		select {
		case <-c:
		default:
			close(c)
		}
	}
}
