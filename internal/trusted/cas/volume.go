package cas

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

const prefixVolume = "volume/"

// volume is a session's volume: its key and the newest state that was committed.
type volume struct {
	session ident.SessionName
	name    string
	mu      sync.Mutex // held over a commit that changes the volume
	loaded  bool
	rec     volumeRecord // zero ID: not made yet
}

// volumeRecord is the row of a volume.
type volumeRecord struct {
	ID         ident.Digest `json:"id"`
	Key        []byte       `json:"key"`
	NextKey    []byte       `json:"next_key,omitempty"` // of the next commit, after a rotation
	Generation uint64       `json:"generation"`
	Tag        ident.Digest `json:"tag"`
	// Statement is what the instance that committed the generation said about it.
	Statement *owners.Statement `json:"statement,omitempty"`
	Lease     uint64            `json:"lease"`  // fencing number of the latest lease
	Holder    ident.InstanceID  `json:"holder"` // zero: nobody holds it
}

func (v *volume) row() journal.RowID {
	return journal.RowID(prefixVolume + string(v.session) + "@" + v.name)
}

// put is the row of a volume that is to become rec.
func (v *volume) put(rec volumeRecord) (journal.Write, error) {
	plain, err := json.Marshal(rec)
	if err != nil {
		return journal.Write{}, fmt.Errorf("marshal volume: %w", err)
	}
	return journal.Write{ID: v.row(), Plain: plain}, nil
}

// volume is the session's volume of a name, which may not have been read yet.
func (s *sessionState) volume(name string) *volume {
	s.volumeMu.Lock()
	defer s.volumeMu.Unlock()

	v, ok := s.volumes[name]
	if !ok {
		v = &volume{session: s.name, name: name}
		s.volumes[name] = v
	}
	return v
}

// load reads the volume, under v.mu.
func (v *volume) load(ctx context.Context, j *journal.Journal) error {
	if v.loaded {
		return nil
	}

	plain, err := j.Read(ctx, v.row())
	if err != nil {
		return fmt.Errorf("read volume %s: %w", v.name, err)
	}
	if plain != nil {
		if err := json.Unmarshal(plain, &v.rec); err != nil {
			return fmt.Errorf("read volume %s: %w", v.name, err)
		}
	}
	v.loaded = true
	return nil
}

// describe is the volume for its owner.
func (v *volume) describe(ctx context.Context, j *journal.Journal) (owners.Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()

	if err := v.load(ctx, j); err != nil {
		return owners.Volume{}, err
	}
	return owners.Volume{
		Name:       v.name,
		ID:         v.rec.ID,
		Generation: v.rec.Generation,
		Holder:     v.rec.Holder,
		Statement:  v.rec.Statement,
	}, nil
}

// mounted is what an instance got of a volume; part of its row.
type mounted struct {
	Name       string        `json:"name"`
	ID         ident.Digest  `json:"id"`
	Path       string        `json:"path"`
	Access     owners.Access `json:"access"`
	Generation uint64        `json:"generation"`
	Tag        ident.Digest  `json:"tag"`
	Lease      uint64        `json:"lease,omitempty"`
	// Committed says that the instance committed the volume since it has it.
	Committed bool `json:"committed,omitempty"`
	// Key tells the key that the instance got for its generation from later ones;
	// zero in rows from before keys were rotated.
	Key ident.Digest `json:"key,omitzero"`
	// Rekeys says that it has the key of the next commit too, and seals under it.
	Rekeys bool `json:"rekeys,omitempty"`
	// Statement belongs to the generation: what the instance that committed it said.
	Statement *owners.Statement `json:"statement,omitempty"`
}

// volumeKeys are what an instance opens a volume with, and, after a rotation, what
// its next commit is sealed under.
type volumeKeys struct{ key, next []byte }

// keys are those of an instance with this mount; none where the CAS has forgotten
// them, after a reset, or after a commit under a fresh key.
func (r volumeRecord) keys(m mounted) volumeKeys {
	if r.ID != m.ID || !m.Key.IsZero() && m.Key != keyName(r.Key) {
		return volumeKeys{}
	}
	if m.Rekeys {
		return volumeKeys{r.Key, r.NextKey}
	}
	return volumeKeys{key: r.Key}
}

// keyName tells keys of volumes apart, and nothing about them.
func keyName(key []byte) ident.Digest {
	return ident.Sum(slices.Concat([]byte("cupel/volume-key/v1"), key))
}

// mounting collects what a release does to volumes. Volumes that it changes stay
// locked until done is called.
type mounting struct {
	version int // of the protocol that the instance speaks
	mounts  []mounted
	keys    map[string]volumeKeys
	writes  []journal.Write
	locked  []*volume
	next    []volumeRecord // what locked become
}

// mountVolumes decides what the instance gets of each volume: the one lease for a
// rollback_protected mount, a private snapshot for an ephemeral one. While
// another instance has the lease nothing is released: a second writer on a copy
// of its own would lose in silence what it wrote. Mounts are taken in the order
// of names, as all who lock more than one volume do.
func (c *CAS) mountVolumes(ctx context.Context, s *sessionState, id ident.InstanceID, req request) (*mounting, error) {
	mounts := req.plan.mounts
	if len(mounts) == 0 {
		return &mounting{}, nil
	}

	g := &mounting{version: req.Version, keys: make(map[string]volumeKeys, len(mounts))}
	mounts = slices.Clone(mounts)
	slices.SortStableFunc(mounts, func(a, b session.VolumeMount) int { return strings.Compare(a.Name, b.Name) })

	for _, m := range mounts {
		if _, twice := g.keys[m.Name]; twice {
			g.done(false)
			return nil, problem.New(problem.Invalid, ruleVolumeTwice, "volume %s is mounted twice", m.Name)
		}
		if err := c.mountOne(ctx, g, s.volume(m.Name), id, m); err != nil {
			g.done(false)
			return nil, err
		}
	}
	return g, nil
}

// mountOne is mountVolumes for one of them. It stays locked where it changes.
func (c *CAS) mountOne(ctx context.Context, g *mounting, v *volume, id ident.InstanceID, m session.VolumeMount) error {
	v.mu.Lock()
	changed := false
	defer func() {
		if !changed {
			v.mu.Unlock()
		}
	}()

	if err := v.load(ctx, c.journal); err != nil {
		return err
	}

	rec := v.rec
	if rec.ID.IsZero() {
		b, err := secrets.Random(64)
		if err != nil {
			return err
		}
		rec = volumeRecord{ID: ident.Digest(b[:32]), Key: b[32:]}
		changed = true
	}

	gr := mounted{
		Name:       m.Name,
		ID:         rec.ID,
		Path:       m.Path,
		Access:     owners.ReadOnly,
		Generation: rec.Generation,
		Tag:        rec.Tag,
		Statement:  rec.Statement,
		Key:        keyName(rec.Key),
	}

	switch {
	case m.Policy != session.RollbackProtected:
	case rec.Holder != id && c.running(rec.Holder):
		return c.leaseHeld(v.name, rec.Holder)
	default:
		rec.Lease++
		rec.Holder = id
		gr.Access, gr.Lease = owners.ReadWrite, rec.Lease
		gr.Rekeys = len(rec.NextKey) > 0 && g.version > wire.Previous
		changed = true
	}

	if changed {
		w, err := v.put(rec)
		if err != nil {
			changed = false
			return err
		}
		g.writes = append(g.writes, w)
		g.locked = append(g.locked, v)
		g.next = append(g.next, rec)
	}

	g.mounts = append(g.mounts, gr)
	g.keys[m.Name] = rec.keys(gr)
	return nil
}

// leaseHeld tells who has the lease of a volume, and how long it has been silent.
func (c *CAS) leaseHeld(volume string, holder ident.InstanceID) error {
	silent, patience := "unknown", missedReports*c.keepAlive
	if v, ok := c.instances.Load(holder); ok {
		patience = c.patience(v.(*instance))
		if seen := v.(*instance).seen.Load(); seen != nil {
			silent = c.now().Sub(*seen).Round(time.Second).String()
		}
	}

	return problem.New(problem.Unavailable, problem.RuleLeaseHeld, "instance %s has the lease of volume %s; it was heard of %s ago", holder.Short(), volume, silent).
		Want("the lease: one instance at a time writes a volume").
		Fix("wait until that one has ended: after %s of silence it lapses; a service that only reads mounts the volume with `update_policy: ephemeral`", patience)
}

// done lets go of the volumes; with committed, they have become what was written.
func (g *mounting) done(committed bool) {
	for i, v := range g.locked {
		if committed {
			v.rec = g.next[i]
		}
		v.mu.Unlock()
	}
	g.locked = nil
}

// checkVersion holds a request to the versions of the protocol that this CAS speaks.
func checkVersion(v int) error {
	if v != wire.ReleaseVersion && v != wire.Previous {
		return problem.New(problem.Invalid, ruleProtocolVersion, "the request has version %d", v).
			Want("%d or %d", wire.ReleaseVersion, wire.Previous).
			Fix("use a cupel-init of the same version as this CAS")
	}
	return nil
}
