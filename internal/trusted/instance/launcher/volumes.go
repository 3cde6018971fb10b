package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/instance/volume"
	"cupel.dev/cupel/internal/trusted/sealed"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/wire"
)

// openVolume is a volume whose plaintext lies in memory.
type openVolume struct {
	wire.Volume // its keys are empty: see key and next
	key         secret.Value
	next        secret.Value // what its commit is sealed under, where that is another key
	dir         string       // mount point in the staging directory
	root        *os.Root     // stays on that mount whatever happens to the path
	limit       uint64       // bytes that it may take
	size        volume.Size  // when it was opened
	sealed      ident.Digest // tag of what is to be committed
}

// store is the node, as the launcher sees it.
type store interface {
	Get(ctx context.Context, s wire.Snapshot) (io.ReadCloser, int64, error)
	Put(ctx context.Context, id ident.Digest, generation uint64, body io.Reader, tag func() ident.Digest) error
}

// openVolumes fetches, verifies and unpacks the volumes into memory. Keys in
// vs are cleared. Budget is what they may take together.
func (l *launcher) openVolumes(ctx context.Context, vs []wire.Volume, owner appUser, budget uint64) ([]*openVolume, error) {
	var out []*openVolume
	left := budget
	for i := range vs {
		o := &openVolume{
			Volume: vs[i], key: secret.New(vs[i].Key), limit: left,
			dir: filepath.Join(volumesDir, fmt.Sprint(i)),
		}
		if len(vs[i].NextKey) > 0 {
			o.next = secret.New(vs[i].NextKey)
		}
		clear(vs[i].Key)
		clear(vs[i].NextKey)
		o.Key, o.NextKey = nil, nil
		err := retry(ctx, l.patience, l.noteRetry, func(ctx context.Context) error {
			return o.open(ctx, l.node, owner)
		})
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", o.Name, err)
		}
		if o.size, err = volume.Measure(ctx, o.root, o.limit); err != nil {
			return nil, fmt.Errorf("volume %s: %w", o.Name, err)
		}
		left -= o.size.Total()
		out = append(out, o)
	}

	for _, o := range out {
		o.limit = o.size.Total() + left/uint64(len(out))
		if err := o.fit(); err != nil {
			return nil, fmt.Errorf("volume %s: %w", o.Name, err)
		}
	}
	return out, nil
}

// fit makes the volume's file system as large as its limit: what the app can write
// can be stored, and what can't be stored it hears of while it writes.
func (o *openVolume) fit() error {
	content, names := o.size.Room(o.limit)
	var st unix.Statfs_t
	if err := unix.Statfs(o.dir, &st); err != nil {
		return fmt.Errorf("measure: %w", err)
	}
	// What is there stays there, whatever else this kernel keeps in its pages.
	content = max(content, (st.Blocks-st.Bfree)*uint64(st.Bsize), uint64(st.Bsize))
	names = max(names, st.Files-st.Ffree, 1)
	options := fmt.Sprintf("size=%d,nr_inodes=%d", content, names)
	if err := unix.Mount("", o.dir, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("set the size of its memory: %w", err)
	}
	return nil
}

// open is one try: mounted and verified to the last byte, or not mounted.
func (o *openVolume) open(ctx context.Context, s store, owner appUser) (err error) {
	if err := os.Mkdir(o.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make mount point: %w", err)
	}
	if _, err := mountTmpfs(o.dir, o.limit, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if o.root != nil {
				_ = o.root.Close()
			}
			_ = unix.Unmount(o.dir, unix.MNT_DETACH)
		}
	}()
	if o.root, err = os.OpenRoot(o.dir); err != nil {
		return fmt.Errorf("open mount point: %w", err)
	}
	if o.Generation == 0 {
		return o.root.Chown(".", owner.UID, owner.GID)
	}
	return o.fetch(ctx, s)
}

func (o *openVolume) fetch(ctx context.Context, s store) error {
	body, size, err := s.Get(ctx, wire.Snapshot{Volume: o.ID, Generation: o.Generation, Tag: o.Tag})
	if err != nil {
		if problem.KindOf(err) == problem.NotFound {
			return problem.New(problem.Denied, ruleVolumeMissing, "the node has no generation %d of volume %s", o.Generation, o.ID).
				Fix("have the operator put back the volume's newest snapshot; if there is none, what it held is lost: start it afresh (cupel volume reset SESSION %s)", o.Name)
		}
		return err
	}
	defer body.Close()
	// Ciphertext is longer than plaintext by a part in some hundred: an answer far
	// beyond what any archive takes is not even begun.
	if size > 0 && uint64(size) > wire.MaxSnapshot(o.limit) {
		return volume.TooLarge(uint64(size), o.limit)
	}
	r, err := sealed.OpenSnapshot(transfer{body}, o.key, o.ID, o.Generation, o.Tag)
	if err != nil {
		return err
	}
	return volume.Unpack(ctx, r, o.root, o.limit)
}

// transfer tells an answer that broke off, which is worth another try, from one
// that ends too early, which is a truncated snapshot.
type transfer struct{ body io.Reader }

func (t transfer) Read(b []byte) (int, error) {
	n, err := t.body.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = problem.New(problem.Unavailable, problem.RuleNodeUnreachable, "the node's answer broke off: %v", err)
	}
	return n, err
}

// commitVolumes stores all volumes that may be written, or none: first the
// ciphertexts at the node, then all tags at the CAS in one compare-and-swap. Before
// that the old generations stay the valid ones. The CAS keeps beside each tag what
// the app said of what it stored.
func (l *launcher) commitVolumes(ctx context.Context, vs []*openVolume, said *owners.Statement) error {
	start := time.Now()
	vs = slices.DeleteFunc(slices.Clone(vs), func(v *openVolume) bool { return v.Access != owners.ReadWrite })
	for _, v := range vs {
		if err := v.storable(ctx); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	for _, v := range vs {
		err := retry(ctx, max(l.patience, commitPatience), l.noteCommit, func(ctx context.Context) (err error) {
			v.sealed, err = v.put(ctx, l.node)
			return err
		})
		if err != nil {
			return fmt.Errorf("volume %s: store the snapshot at the node (the old state stays valid): %w", v.Name, err)
		}
	}

	if err := l.swapTags(ctx, vs, said); err != nil {
		return fmt.Errorf("tell the CAS the stored snapshots' tags (the old state stays valid): %w", err)
	}
	for _, v := range vs {
		l.say("volume %s: generation %d committed after %s", v.Name, v.Generation+1, time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// storable refuses what can't be stored, before anything is sent.
func (v *openVolume) storable(ctx context.Context) error {
	if err := v.checkRoom(); err != nil {
		return err
	}
	_, err := volume.Measure(ctx, v.root, v.limit)
	return err
}

// checkRoom refuses a volume that is full to the last page: some write into it
// failed, so that what is there is not what the app meant.
func (v *openVolume) checkRoom() error {
	var st unix.Statfs_t
	if err := unix.Statfs(v.dir, &st); err != nil {
		return fmt.Errorf("measure: %w", err)
	}
	if st.Type == unix.TMPFS_MAGIC && st.Blocks > 0 && st.Bavail == 0 {
		return volume.TooLarge(v.limit, v.limit)
	}
	return nil
}

// sealingKey is the key of the next generation: after a rotation a fresh one, so
// that the CAS can forget the one before.
func (v *openVolume) sealingKey() secret.Value {
	if v.next.Len() > 0 {
		return v.next
	}
	return v.key
}

// put encrypts and sends the next generation.
func (v *openVolume) put(ctx context.Context, s store) (ident.Digest, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	var tag ident.Digest
	packed := make(chan error, 1)
	go func() {
		err := func() error {
			w, err := sealed.NewSnapshotWriter(pw, v.sealingKey(), v.ID, v.Generation+1)
			if err != nil {
				return err
			}
			if err := volume.Pack(ctx, v.root, w, v.limit); err != nil {
				return err
			}
			if err := w.Close(); err != nil {
				return err
			}
			tag = w.Tag()
			return nil
		}()
		_ = pw.CloseWithError(err) // nil: the end of the body
		packed <- err
	}()
	err := s.Put(ctx, v.ID, v.Generation+1, pr, func() ident.Digest { return tag })
	_ = pr.CloseWithError(io.ErrClosedPipe) // an answer before the end of the body stops the packer
	perr := <-packed
	if _, ok := errors.AsType[*problem.Error](perr); perr != nil && (ok || err == nil) {
		return ident.Digest{}, perr // why the body broke off says more than that it did
	}
	return tag, err
}

// commitPatience is how long node and CAS are asked to take what the app wrote: it
// is lost if nobody does. It is longer than a restart of either's machine, or than a
// person needs to make room on a full disk.
const commitPatience = 5 * time.Minute

// noteCommit tells the node of every try, so that it takes the launcher for alive.
func (l *launcher) noteCommit(n int, err error) {
	l.noteRetry(n, err)
	l.teller.tell(l.node, func(s *wire.Status) { s.Code, s.Problem = 0, problem.From(err) })
}

func (l *launcher) swapTags(ctx context.Context, vs []*openVolume, said *owners.Statement) error {
	if len(vs) == 0 {
		return nil
	}
	first := vs[0]
	req := wire.TagRequest{
		Version:   wire.ReleaseVersion,
		Volume:    first.ID,
		Lease:     first.Lease,
		From:      first.Generation,
		FromTag:   first.Tag,
		Tag:       first.sealed,
		Statement: said,
	}
	for _, v := range vs[1:] {
		req.Also = append(req.Also, wire.TagMove{Volume: v.ID, Lease: v.Lease, From: v.Generation, FromTag: v.Tag, Tag: v.sealed})
	}

	var reply wire.TagReply
	err := retry(ctx, max(l.patience, commitPatience), l.noteCommit, func(ctx context.Context) error {
		return l.cas.call(ctx, wire.PathTag, req, &reply)
	})
	if err == nil && reply.Generation != first.Generation+1 {
		err = problem.New(problem.Internal, ruleTagReply, "the CAS confirms generation %d", reply.Generation).
			Want("generation %d", first.Generation+1)
	}
	return err
}
