package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"cupel.dev/cupel/internal/trusted/disk"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/rebuild"
)

// Client pushes to and pulls from one registry.
type Client struct {
	addr      string
	transport http.RoundTripper
}

// NewClient speaks to the registry at HOST:PORT: without TLS on this machine,
// with TLS elsewhere.
func NewClient(addr string) *Client {
	return &Client{addr: addr, transport: rebuild.DefaultClient().Transport}
}

// Addr is the registry's HOST:PORT.
func (c *Client) Addr() string { return c.addr }

func (c *Client) options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(c.transport), remote.WithJobs(4),
		remote.WithUserAgent("cupel")}
}

func (c *Client) ref(ref string) (name.Reference, error) {
	r, err := name.ParseReference(c.addr+"/"+ref, name.StrictValidation)
	if err != nil {
		return nil, problem.New(problem.Invalid, "registry_reference", "%w", err).Want("REPOSITORY:TAG")
	}
	return r, nil
}

// content is an image or an artifact: a manifest, its config, and where the
// bytes of its layers are.
type content struct {
	manifest []byte
	parsed   *v1.Manifest
	config   []byte
	open     func(v1.Hash) (io.ReadCloser, error)
}

var _ partial.CompressedImageCore = (*content)(nil)

func (c *content) RawManifest() ([]byte, error)        { return c.manifest, nil }
func (c *content) RawConfigFile() ([]byte, error)      { return c.config, nil }
func (c *content) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func (c *content) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range c.parsed.Layers {
		if l.Digest == h {
			return layer{l, c.open}, nil
		}
	}
	return nil, fmt.Errorf("no layer %s", h)
}

type layer struct {
	desc v1.Descriptor
	open func(v1.Hash) (io.ReadCloser, error)
}

func (l layer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l layer) Size() (int64, error)                { return l.desc.Size, nil }
func (l layer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
func (l layer) Compressed() (io.ReadCloser, error)  { return l.open(l.desc.Digest) }

func (c *Client) push(ctx context.Context, ref string, what *content) error {
	r, err := c.ref(ref)
	if err != nil {
		return err
	}
	img, err := partial.CompressedToImage(what)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return c.explain(ctx, "store "+ref, remote.Write(r, img, c.options(ctx)...))
}

// PushImage stores a built image under REPOSITORY:TAG, its bytes as they are.
func (c *Client) PushImage(ctx context.Context, ref string, img *rebuild.Image) error {
	m, err := v1.ParseManifest(bytesReader(img.Manifest()))
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return c.push(ctx, ref, &content{manifest: img.Manifest(), parsed: m, config: img.Config(),
		open: func(v1.Hash) (io.ReadCloser, error) { return img.OpenLayer() }})
}

// PushArtifact stores a manifest without config and the blobs that it names,
// out of src, under REPOSITORY:TAG.
func (c *Client) PushArtifact(ctx context.Context, ref string, manifest []byte, src rebuild.Source) error {
	m, err := v1.ParseManifest(bytesReader(manifest))
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return c.push(ctx, ref, &content{manifest: manifest, parsed: m, config: []byte(rebuild.EmptyConfig),
		open: func(h v1.Hash) (io.ReadCloser, error) {
			d, err := ident.ParseDigest(h.Hex)
			if err != nil {
				return nil, err
			}
			return src.Open(ctx, d)
		}})
}

// ImageDigest returns the digest of the manifest at REPOSITORY:TAG.
func (c *Client) ImageDigest(ctx context.Context, ref string) (ident.Digest, error) {
	r, err := c.ref(ref)
	if err != nil {
		return ident.Digest{}, err
	}
	d, err := remote.Head(r, c.options(ctx)...)
	if err != nil {
		return ident.Digest{}, c.explain(ctx, "look for "+ref, err)
	}
	return ident.ParseDigest(d.Digest.Hex)
}

// Source reads the blobs of the repository of REPOSITORY:TAG.
func (c *Client) Source(ref string) (rebuild.Source, error) {
	return rebuild.ParseRegistrySource(c.addr+"/"+ref, nil)
}

// Image is an image as the registry describes it.
type Image struct {
	Manifest ident.Digest
	Config   []byte
}

// PullImage reads an image's manifest digest and config; the layers stay where
// they are.
func (c *Client) PullImage(ctx context.Context, ref string) (Image, error) {
	r, err := c.ref(ref)
	if err != nil {
		return Image{}, err
	}
	img, err := remote.Image(r, c.options(ctx)...)
	if err != nil {
		return Image{}, c.explain(ctx, "read "+ref, err)
	}
	h, err := img.Digest()
	if err != nil {
		return Image{}, c.explain(ctx, "read "+ref, err)
	}
	d, err := ident.ParseDigest(h.Hex)
	if err != nil {
		return Image{}, err
	}
	config, err := img.RawConfigFile()
	return Image{Manifest: d, Config: config}, c.explain(ctx, "read "+ref, err)
}

// Tags lists a repository's tags; none if there is no such repository.
func (c *Client) Tags(ctx context.Context, repository string) ([]string, error) {
	repo, err := name.NewRepository(c.addr+"/"+repository, name.StrictValidation)
	if err != nil {
		return nil, problem.New(problem.Invalid, "registry_reference", "%w", err)
	}
	tags, err := remote.List(repo, c.options(ctx)...)
	err = c.explain(ctx, "list "+repository, err)
	if err != nil && problem.KindOf(err) == problem.NotFound {
		return nil, nil
	}
	return tags, err
}

// explain says what a person can do about a registry's answer.
func (c *Client) explain(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if p, ok := errors.AsType[*problem.Error](err); ok {
		return p
	}
	if t, ok := errors.AsType[*transport.Error](err); ok {
		switch {
		case t.StatusCode == http.StatusNotFound:
			return problem.New(problem.NotFound, "registry_missing", "%s: the registry at %s has no such thing", what, c.addr).
				Fix("build or push it first: cupel runtime build NAME")
		case t.StatusCode == http.StatusUnauthorized, t.StatusCode == http.StatusForbidden:
			return problem.New(problem.Denied, "registry_denied", "%s: the registry at %s refuses: %s", what, c.addr, http.StatusText(t.StatusCode)).
				Fix("write to it from its own machine")
		case t.StatusCode == http.StatusInsufficientStorage:
			full := fmt.Errorf("%s: the registry at %s answers %d: %w", what, c.addr, t.StatusCode, syscall.ENOSPC)
			return disk.Explain(full, ".", "the registry's state folder")
		case t.StatusCode >= 500:
			return problem.New(problem.Unavailable, "registry_failed", "%s: the registry at %s answers %d", what, c.addr, t.StatusCode).
				Fix("look at its log and its disk, then try again")
		}
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return problem.New(problem.Unavailable, "registry_unreachable", "%s: no registry answers at %s: %w", what, c.addr, u.Err).
			Fix("start it (cupel up), or look at its log")
	}
	return fmt.Errorf("%s: registry %s: %w", what, c.addr, err)
}
