package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
)

// Client pushes to and pulls from one registry.
type Client struct {
	addr      string
	transport http.RoundTripper
}

// NewClient speaks to the registry at HOST:PORT: without TLS on this machine,
// with TLS elsewhere.
func NewClient(addr string) *Client {
	return &Client{addr: addr, transport: wholeAnswers{rebuild.DefaultClient().Transport}}
}

// Addr is the registry's HOST:PORT.
func (c *Client) Addr() string { return c.addr }

// options are of every request.
func (c *Client) options(ctx context.Context) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx),
		remote.WithTransport(c.transport),
		remote.WithJobs(4),
		remote.WithUserAgent("cupel"),
	}
}

// ref is a reference in this registry.
func (c *Client) ref(ref rebuild.Ref) (name.Reference, error) {
	r, err := name.ParseReference(c.addr+"/"+string(ref), name.StrictValidation)
	if err != nil {
		return nil, problem.New(problem.Invalid, problem.RuleRegistryReference, "%w", err).Want("REPOSITORY:TAG")
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

// LayerByDigest implements partial.CompressedImageCore.
func (c *content) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range c.parsed.Layers {
		if l.Digest == h {
			return layer{l, c.open}, nil
		}
	}
	return nil, fmt.Errorf("no layer %s", h)
}

// layer is a layer of a content.
type layer struct {
	desc v1.Descriptor
	open func(v1.Hash) (io.ReadCloser, error)
}

func (l layer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l layer) Size() (int64, error)                { return l.desc.Size, nil }
func (l layer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
func (l layer) Compressed() (io.ReadCloser, error)  { return l.open(l.desc.Digest) }

// push stores a content under REPOSITORY:TAG: first the blobs, then the manifest that names
// them, as the OCI distribution specification has it (pushing manifests).
func (c *Client) push(ctx context.Context, ref rebuild.Ref, what *content) error {
	r, err := c.ref(ref)
	if err != nil {
		return err
	}

	img, err := partial.CompressedToImage(what)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}

	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}

	config, err := partial.ConfigLayer(img)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}

	pusher, err := remote.NewPusher(c.options(ctx)...)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}

	// Push sends nothing where the manifest is there. The blobs are asked for one by one,
	// so that what is damaged of them is replaced; and the first that finds no room ends it.
	for _, l := range append([]v1.Layer{config}, layers...) {
		if err := pusher.Upload(ctx, r.Context(), l); err != nil {
			return c.explain(ctx, "store", ref, err)
		}
	}

	return c.explain(ctx, "store", ref, pusher.Put(ctx, r, img))
}

// PushImage stores a built image under REPOSITORY:TAG, its bytes as they are.
func (c *Client) PushImage(ctx context.Context, ref rebuild.Ref, img *rebuild.Image) error {
	m, err := v1.ParseManifest(bytes.NewReader(img.Manifest()))
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}

	return c.push(ctx, ref, &content{
		manifest: img.Manifest(),
		parsed:   m,
		config:   img.Config(),
		open:     func(v1.Hash) (io.ReadCloser, error) { return img.OpenLayer() },
	})
}

// PushArtifact stores a manifest without config and the blobs that it names,
// out of src, under REPOSITORY:TAG.
func (c *Client) PushArtifact(ctx context.Context, ref rebuild.Ref, manifest []byte, src rebuild.Source) error {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}

	return c.push(ctx, ref, &content{
		manifest: manifest,
		parsed:   m,
		config:   []byte(rebuild.EmptyConfig),
		open: func(h v1.Hash) (io.ReadCloser, error) {
			d, err := ident.ParseDigest(h.Hex)
			if err != nil {
				return nil, err
			}
			return src.Open(ctx, d)
		},
	})
}

// Whole returns the digest of the manifest at REPOSITORY:TAG, if that and all that it
// names are there, as they were stored.
func (c *Client) Whole(ctx context.Context, ref rebuild.Ref) (ident.Digest, error) {
	r, img, err := c.image(ctx, ref)
	if err != nil {
		return ident.Digest{}, err
	}

	m, err := img.Manifest()
	if err != nil {
		return ident.Digest{}, c.judge(ctx, ref, err)
	}

	puller, err := remote.NewPuller(c.options(ctx)...)
	if err != nil {
		return ident.Digest{}, fmt.Errorf("look for %s: %w", ref, err)
	}

	for _, d := range append(m.Layers, m.Config) {
		l, err := puller.Layer(ctx, r.Context().Digest(d.Digest.String()))
		if err != nil {
			return ident.Digest{}, c.explain(ctx, "look for", ref, err)
		}

		there, err := partial.Exists(l)
		if err != nil {
			return ident.Digest{}, c.explain(ctx, "look for", ref, err)
		}

		if !there {
			return ident.Digest{}, c.damaged("look for", ref, fmt.Errorf("%s is gone", d.Digest))
		}
	}

	return digestOf(img)
}

// image reads a manifest.
func (c *Client) image(ctx context.Context, ref rebuild.Ref) (name.Reference, v1.Image, error) {
	r, err := c.ref(ref)
	if err != nil {
		return nil, nil, err
	}

	answer, err := remote.Get(r, c.options(ctx)...)
	if err != nil {
		return nil, nil, c.explain(ctx, "read", ref, err)
	}

	img, err := answer.Image()
	return r, img, c.judge(ctx, ref, err)
}

// digestOf is the digest by which the registry knows an image.
func digestOf(img v1.Image) (ident.Digest, error) {
	h, err := img.Digest()
	if err != nil {
		return ident.Digest{}, err
	}

	return ident.ParseDigest(h.Hex)
}

// Source reads the blobs of the repository of REPOSITORY:TAG.
func (c *Client) Source(ref rebuild.Ref) (rebuild.Source, error) {
	return rebuild.ParseRegistrySource(c.addr+"/"+string(ref), nil)
}

// Image is an image as the registry describes it.
type Image struct {
	Manifest ident.Digest
	Config   []byte
}

// PullImage reads an image's manifest digest and config; the layers stay where
// they are.
func (c *Client) PullImage(ctx context.Context, ref rebuild.Ref) (Image, error) {
	_, img, err := c.image(ctx, ref)
	if err != nil {
		return Image{}, err
	}

	d, err := digestOf(img)
	if err != nil {
		return Image{}, c.judge(ctx, ref, err)
	}

	config, err := img.RawConfigFile()
	if err = c.judge(ctx, ref, err); problem.KindOf(err) == problem.NotFound {
		err = c.damaged("read", ref, errors.New("its config is gone"))
	}

	return Image{Manifest: d, Config: config}, err
}

// tags lists a repository's tags; none if there is no such repository.
func (c *Client) tags(ctx context.Context, repository string) ([]string, error) {
	repo, err := name.NewRepository(c.addr+"/"+repository, name.StrictValidation)
	if err != nil {
		return nil, problem.New(problem.Invalid, problem.RuleRegistryReference, "%w", err)
	}

	tags, err := remote.List(repo, c.options(ctx)...)
	err = c.explain(ctx, "list", rebuild.Ref(repository), err)
	if err != nil && problem.KindOf(err) == problem.NotFound {
		return nil, nil
	}

	return tags, err
}
