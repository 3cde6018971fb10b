package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Media types of a volume's snapshot.
const (
	SnapshotType      = "application/vnd.cupel.volume.v1"
	mediaTypeSnapshot = "application/vnd.cupel.volume.snapshot.v1"
)

// keepSnapshots is how many generations stay: the newest may not have reached
// the CAS, then the one before is the one that counts.
const keepSnapshots = 2

// volumePrefix begins the names of the volumes' repositories.
const volumePrefix = "volumes/"

// snapshotRepo is the repository of a volume's snapshots.
func snapshotRepo(id ident.Digest) string { return volumePrefix + id.String() }

// snapshotRef is where one snapshot is stored. Its tag begins with the generation, by which
// old ones are found.
func snapshotRef(s wire.Snapshot) rebuild.Ref {
	return rebuild.Ref(fmt.Sprintf("%s:g%d-%s", snapshotRepo(s.Volume), s.Generation, s.Tag))
}

// Push stores a volume's ciphertext as the artifact volumes/ID:gGENERATION-TAG and
// drops generations before the last two. It returns when the registry has it.
func (c *Client) Push(ctx context.Context, s wire.Snapshot, size int64, open func() (io.ReadCloser, error)) error {
	digest, err := sum(open, size)
	if err != nil {
		return err
	}

	// An artifact without config (OCI image specification, guidelines for artifact usage).
	m := rebuild.Manifest{
		SchemaVersion: 2,
		MediaType:     rebuild.MediaTypeManifest,
		ArtifactType:  SnapshotType,
		Config: rebuild.Descriptor{
			MediaType: rebuild.MediaTypeEmpty,
			Digest:    "sha256:" + ident.Sum([]byte(rebuild.EmptyConfig)).String(),
			Size:      int64(len(rebuild.EmptyConfig)),
		},
		Layers: []rebuild.Descriptor{{MediaType: mediaTypeSnapshot, Digest: "sha256:" + digest.Hex, Size: size}},
	}

	manifest, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("volume manifest: %w", err)
	}

	parsed, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return fmt.Errorf("volume manifest: %w", err)
	}

	err = c.push(ctx, snapshotRef(s), &content{
		manifest: manifest,
		parsed:   parsed,
		config:   []byte(rebuild.EmptyConfig),
		open:     func(v1.Hash) (io.ReadCloser, error) { return open() },
	})
	if err != nil {
		return err
	}

	return c.prune(ctx, s.Volume, s.Generation)
}

// sum is the digest of a snapshot, which has to have the size that was announced.
func sum(open func() (io.ReadCloser, error), size int64) (v1.Hash, error) {
	r, err := open()
	if err != nil {
		return v1.Hash{}, err
	}
	defer r.Close()

	h, n, err := v1.SHA256(r)
	if err == nil && n != size {
		err = fmt.Errorf("volume snapshot: %d bytes where %d were announced", n, size)
	}

	return h, err
}

// prune deletes generations that nobody may ask for any more.
func (c *Client) prune(ctx context.Context, id ident.Digest, newest uint64) error {
	repo := snapshotRepo(id)

	tags, err := c.tags(ctx, repo)
	if err != nil {
		return err
	}

	for _, tag := range tags {
		digits, _, _ := strings.Cut(strings.TrimPrefix(tag, "g"), "-")
		g, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || g+keepSnapshots > newest {
			continue
		}

		if err := c.untag(ctx, rebuild.Ref(repo+":"+tag)); err != nil {
			return err
		}
	}

	return nil
}

// Drop removes a snapshot. An unknown one is no error.
func (c *Client) Drop(ctx context.Context, s wire.Snapshot) error {
	err := c.untag(ctx, snapshotRef(s))
	if err != nil && problem.KindOf(err) == problem.NotFound {
		return nil
	}

	return err
}

// DropAll removes all snapshots of a volume.
func (c *Client) DropAll(ctx context.Context, id ident.Digest) error {
	tags, err := c.tags(ctx, snapshotRepo(id))
	if err != nil {
		return err
	}

	for _, tag := range tags {
		if err := c.untag(ctx, rebuild.Ref(snapshotRepo(id)+":"+tag)); err != nil && problem.KindOf(err) != problem.NotFound {
			return err
		}
	}

	return nil
}

// untag deletes by tag: another snapshot may have the same bytes and manifest.
func (c *Client) untag(ctx context.Context, what rebuild.Ref) error {
	ref, err := c.ref(what)
	if err != nil {
		return err
	}

	if err := remote.Delete(ref, c.options(ctx)...); err != nil {
		return c.explain(ctx, "delete", what, err)
	}

	return nil
}

// Pull opens a stored snapshot. It is read twice, so that one that is damaged is refused
// as such before anything of it is given out. Its bytes are what the registry says they
// are: the reader of sealed data judges them.
func (c *Client) Pull(ctx context.Context, s wire.Snapshot) (io.ReadCloser, error) {
	r, err := c.Stream(ctx, s)
	if err != nil {
		return nil, err
	}

	_, err = io.Copy(io.Discard, r)
	_ = r.Close()
	if err != nil {
		return nil, err
	}

	return c.Stream(ctx, s)
}

// Stream opens a stored snapshot. That it is damaged may be known at its end alone: the
// reader's error says so.
func (c *Client) Stream(ctx context.Context, s wire.Snapshot) (io.ReadCloser, error) {
	what := snapshotRef(s)
	_, img, err := c.image(ctx, what)
	if err != nil {
		return nil, err
	}

	layers, err := img.Layers()
	if err != nil {
		return nil, c.judge(ctx, what, err)
	}

	if len(layers) != 1 {
		return nil, problem.New(problem.Denied, ruleVolumeSnapshot, "%s has %d layers", what, len(layers)).Want("one, a volume's snapshot")
	}

	digest, err := layers[0].Digest()
	if err != nil {
		return nil, c.judge(ctx, what, err)
	}

	explain := func(err error) error { return c.judgeBlob(ctx, what, digest, err) }

	r, err := layers[0].Compressed()
	if err != nil {
		return nil, explain(err)
	}
	return explained{r, r, explain}, nil
}

// explained is a reader that says what its errors mean.
type explained struct {
	io.Reader
	io.Closer
	explain func(error) error
}

// Read implements io.Reader.
func (e explained) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err == nil || err == io.EOF { // as io.Reader defines it: never wrapped
		return n, err
	}

	return n, e.explain(err)
}

// judgeBlob explains why what an image names can't be read.
func (c *Client) judgeBlob(ctx context.Context, what rebuild.Ref, digest v1.Hash, err error) error {
	err = c.judge(ctx, what, err)

	if problem.KindOf(err) == problem.NotFound {
		err = c.damaged("read", what, errors.New("it is gone"))
	}

	if p, ok := errors.AsType[*problem.Error](err); ok && p.Rule == RuleDamaged {
		p.Actual = fmt.Sprintf("%s (blob %s)", p.Actual, digest)
	}
	return err
}
