package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
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

// store is the node, as the launcher sees it: it keeps ciphertext.
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
			Volume: vs[i],
			key:    secret.New(vs[i].Key),
			limit:  left,
			dir:    filepath.Join(volumesDir, fmt.Sprint(i)),
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
			return problem.New(problem.Denied, wire.RuleVolumeMissing, "the node has no generation %d of volume %s", o.Generation, o.ID).
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
