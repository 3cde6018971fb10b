package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cupel.dev/cupel/internal/operator/las"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/operator/node/containerd"
	"cupel.dev/cupel/internal/operator/registry"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// openNode opens what instances run on, and adopts those that do.
func (p *parts) openNode(ctx context.Context, o Options, registryAddr string) (err error) {
	p.client = registry.NewClient(registryAddr)
	if p.platform, err = simtee.Open(p.path("simtee"), time.Now); err != nil {
		return err
	}
	if err := writeOnce(p.path("simulation-root.pem"), p.platform.RootPEM(), 0o644); err != nil {
		return err
	}

	if err := p.openContainerd(ctx); err != nil {
		return err
	}
	if p.network, err = p.openNetwork(p.path("cni"), o); err != nil {
		return err
	}

	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		return err
	}
	launcher, err := besides(o.Launcher, "cupel-init")
	if err != nil {
		return err
	}
	writer, err := p.logWriter(ctx)
	if err != nil {
		return err
	}

	attester := las.New(las.Config{
		Inspector: p.runtime,
		Platform:  p.platform,
		Cgroups:   groups,
		Listen:    node.ListenUnix,
		Logger:    p.log,
		Now:       time.Now,
	})
	p.node, err = node.New(node.Config{
		State:     p.path("node"),
		Cgroup:    p.cgroup(),
		Launcher:  launcher,
		LogWriter: writer,
		Runtime:   p.runtime,
		Monitor:   p.runtime,
		Images:    p.runtime,
		Network:   p.network,
		Attester:  attester,
		Replica:   p.client,
		Cgroups:   groups,
		Tell:      p.nodeTells,
		Logger:    p.log,
		Now:       time.Now,
	})
	if err != nil {
		return err
	}

	p.cas = &casProcess{
		attester: attester,
		log:      p.log,
		started:  p.joinGroup,
		tell:     p.incidents.Tell,
		troubles: &p.troubles,
	}
	return p.node.Adopt(ctx)
}

// openContainerd opens the private containerd, with what goes on of an earlier cupeld.
func (p *parts) openContainerd(ctx context.Context) (err error) {
	if p.daemon, err = containerd.Open(ctx, containerd.DaemonConfig{
		Dir:      p.path("containerd"),
		ID:       p.id,
		Logger:   p.log,
		Started:  p.joinGroup,
		Tell:     p.hung,
		Asked:    func(err error) { p.troubles.Note("ask containerd", "", err) },
		Unlogged: func(err error) { p.unlogged("containerd's log", err) },
	}); err != nil {
		return err
	}
	if err := p.adoptProcesses(); err != nil {
		return err
	}

	p.runtime, err = containerd.New(containerd.Config{
		Daemon:    p.daemon,
		Namespace: p.namespace(),
		RuncRoot:  p.path("runc"),
		Logger:    p.log,
	})
	if err != nil {
		return err
	}
	p.onClose(p.runtime.Close)
	if err := p.runtime.EndLeases(ctx); err != nil { // they hold disk space, and nobody up
		p.log.WarnContext(ctx, "what an earlier process had containerd keep is kept longer", "error", err)
	}
	return nil
}

// nodeTells takes what happens to instances. While apps are stopped, who waits for that
// hears what keeps them.
func (p *parts) nodeTells(in manager.Incident) {
	p.incidents.Tell(in)
	if !p.stopping.Load() {
		return
	}

	if again := in.Reason == manager.ReasonTrouble; in.Warning {
		line := fmt.Sprintf("instance %s: %s. ", in.Instance, in.Message)
		if again {
			line += "It is tried again; "
		}
		p.ends.warn(line + "cupel down --force does not wait long for it")
	} else if in.Reason == manager.ReasonTroubleOver {
		p.ends.warn("")
	}
}

// hung tells of what hung beside this process, and goes on.
func (p *parts) hung(reason, message string) {
	p.incidents.Tell(manager.Incident{Warning: true, Reason: reason, Message: message})
}

// writeOnce writes a file that doesn't have that content yet: a full disk is no reason
// not to stop in order what runs on it.
func writeOnce(path string, content []byte, mode fs.FileMode) error {
	if have, err := atomicfile.Read(path); err == nil && bytes.Equal(have, content) {
		return nil
	}
	return atomicfile.Write(path, content, mode)
}

// logWriter is the program that writes instances' logs. Where it was forgotten at an
// upgrade, cupeld does the same, at six times the memory.
func (p *parts) logWriter(ctx context.Context) (string, error) {
	writer, err := besides("", "cupel-log")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(writer); err == nil {
		return writer, nil
	}

	p.log.WarnContext(ctx, "no cupel-log beside cupeld: each instance takes 5 MB more, put it there", "path", writer)
	return besides("", "cupeld")
}

// besides returns the path that was given, or that of a program beside ours.
func besides(given, name string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}

	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}
