package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
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
		req.Also = append(req.Also, wire.TagMove{
			Volume:  v.ID,
			Lease:   v.Lease,
			From:    v.Generation,
			FromTag: v.Tag,
			Tag:     v.sealed,
		})
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
