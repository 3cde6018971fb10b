package manager

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// VolumeKeeper is a Backend that keeps volumes' ciphertext. It can't read it, and
// doesn't know which of it the CAS still has a key for.
type VolumeKeeper interface {
	// Volumes lists what is stored.
	Volumes(ctx context.Context) ([]VolumeStatus, error)
	// RemoveVolume removes all that is stored of a volume, once agree has seen it and
	// returned nil; no app begins to use it in between. An unknown one is
	// UnknownVolume.
	RemoveVolume(ctx context.Context, id ident.Digest, agree func(VolumeStatus) error) error
}

// VolumeStatus is what is stored of one volume.
type VolumeStatus struct {
	ID         ident.Digest
	Generation uint64 // the highest
	Size       int64  // of all that is kept, in bytes
	Used       time.Time
	Apps       map[string]string // that used it: by the app's id its name
}

// UnknownVolume says that nothing is stored of a volume.
func UnknownVolume(id ident.Digest) error {
	return problem.New(problem.NotFound, problem.RuleVolumeUnknown, "nothing is stored of volume %s", id).Fix("see 'cupel volume ls'")
}

// keeper is the backend, for its operator alone.
func (m *Manager) keeper(caller ident.KeyHash) (VolumeKeeper, error) {
	if caller != m.cfg.Operator {
		return nil, problem.New(problem.Denied, ruleNotOperator, "stored volumes are the operator's to list and remove").
			Fix("run it as the operator; an owner has a volume start afresh with 'cupel volume reset'")
	}
	k, ok := m.cfg.Backend.(VolumeKeeper)
	if !ok {
		return nil, problem.New(problem.Invalid, problem.RuleVolumeStore, "this manager's backend keeps no volumes")
	}
	return k, nil
}

// Volumes lists what is stored of volumes, for the operator.
func (m *Manager) Volumes(ctx context.Context, caller ident.KeyHash) ([]managerapi.Volume, error) {
	k, err := m.keeper(caller)
	if err != nil {
		return nil, err
	}

	list, err := k.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]managerapi.Volume, 0, len(list))
	for _, v := range list {
		out = append(out, m.volume(v))
	}

	slices.SortFunc(out, func(a, b managerapi.Volume) int {
		return cmp.Or(a.Used.Compare(b.Used), strings.Compare(a.ID.String(), b.ID.String()))
	})
	return out, nil
}

// RemoveVolume removes what is stored of a volume that no app has. One of which it
// isn't known who used it needs force.
func (m *Manager) RemoveVolume(ctx context.Context, caller ident.KeyHash, id ident.Digest, force bool) (managerapi.Volume, error) {
	var out managerapi.Volume
	k, err := m.keeper(caller)
	if err != nil {
		return out, err
	}

	err = k.RemoveVolume(ctx, id, func(v VolumeStatus) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		out = m.volume(v)
		switch {
		case len(out.Apps) > 0:
			return problem.New(problem.Conflict, ruleVolumeInUse, "volume %.12s… belongs to %s", id, strings.Join(out.Apps, ", ")).
				Want("a volume that no app has").
				Fix("remove the app first: cupel rm --app %s", out.Apps[0])
		case len(out.Before) == 0 && !force:
			return problem.New(problem.Conflict, ruleVolumeUnclear, "which app volume %.12s… is of was not written down: no instance of this release used it", id).
				Want("a volume that is known to be of apps that are gone").
				Fix("deploy or restart the apps that are there, which notes it; or, if you know that none needs it: cupel volume rm %s --force", id)
		}
		return nil
	})

	if err == nil {
		m.cfg.Log.InfoContext(ctx, "volume removed", "volume", id.String(), "bytes", out.Size)
	}
	return out, err
}

// volume is a volume's view. Callers hold mu.
func (m *Manager) volume(v VolumeStatus) managerapi.Volume {
	out := managerapi.Volume{ID: v.ID, Generation: v.Generation, Size: v.Size, Used: v.Used, Apps: []string{}, Before: []string{}}
	for id, name := range v.Apps {
		if a := m.state.Apps[id]; a != nil {
			out.Apps = append(out.Apps, a.Name)
		} else {
			out.Before = append(out.Before, name)
		}
	}

	slices.Sort(out.Apps)
	slices.Sort(out.Before)
	return out
}
