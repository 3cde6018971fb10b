package containerd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node"
)

// Ensure implements node.Images. Registries on this machine are spoken to in
// plain HTTP, all others over TLS.
func (r *Runtime) Ensure(ctx context.Context, ref ident.ImageRef) (node.Image, error) {
	ctx = r.context(ctx)
	if img, err := r.Find(ctx, ref); err == nil {
		return img, nil
	}
	if img, err := r.alias(ctx, ref); err == nil {
		return img, nil
	}

	if _, err := r.client.GetImage(ctx, string(ref)); err == nil { // what was unpacked of it is gone
		if err := r.forgetLost(ctx); err != nil {
			return node.Image{}, imageError(ref, err)
		}
	}

	img, err := r.pull(ctx, ref)
	if err != nil {
		return node.Image{}, imageError(ref, err)
	}
	return r.describe(ctx, img)
}

// pull fetches an image and unpacks it, durably.
func (r *Runtime) pull(ctx context.Context, ref ident.ImageRef) (containerd.Image, error) {
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost)),
	})
	r.pulling.RLock()
	img, err := r.puller.Pull(ctx, string(ref), containerd.WithResolver(resolver),
		containerd.WithPullUnpack, containerd.WithPullSnapshotter(snapshotter))
	r.pulling.RUnlock()

	if err != nil && ctx.Err() == nil && r.pulling.TryLock() {
		defer r.pulling.Unlock()
		if left := r.dropPartial(ctx); left != nil {
			r.cfg.Logger.WarnContext(ctx, "what was fetched of an image in part stays", "error", left)
		}
	}
	return img, err
}

// dropPartial removes what was fetched only in part. containerd would go on after it, and
// fail for ever where the registry has damaged bytes no more.
func (r *Runtime) dropPartial(ctx context.Context) error {
	partial, err := r.client.ContentStore().ListStatuses(ctx)
	for _, p := range partial {
		err = errors.Join(err, r.client.ContentStore().Abort(ctx, p.Ref))
	}
	return err
}

// Find implements node.Images.
func (r *Runtime) Find(ctx context.Context, ref ident.ImageRef) (node.Image, error) {
	ctx = r.context(ctx)
	img, err := r.client.GetImage(ctx, string(ref))
	if err != nil {
		return node.Image{}, imageError(ref, err)
	}
	ok, err := img.IsUnpacked(ctx, snapshotter)
	if err != nil {
		return node.Image{}, imageError(ref, err)
	}
	if !ok {
		return node.Image{}, imageError(ref, errdefs.ErrNotFound)
	}
	return r.describe(ctx, img)
}

// alias gives an image that is here under another reference (the embedded
// registry may come up on another port) this one too.
func (r *Runtime) alias(ctx context.Context, ref ident.ImageRef) (node.Image, error) {
	_, digest, ok := strings.Cut(string(ref), "@")
	if !ok {
		return node.Image{}, errdefs.ErrNotFound
	}

	same, err := r.client.ImageService().List(ctx, "target.digest=="+digest)
	if err != nil || len(same) == 0 {
		return node.Image{}, errors.Join(err, errdefs.ErrNotFound)
	}

	img := images.Image{Name: string(ref), Target: same[0].Target}
	if _, err := r.client.ImageService().Create(ctx, img); err != nil && !errdefs.IsAlreadyExists(err) {
		return node.Image{}, err
	}
	return r.Find(ctx, ref)
}

// describe is what the node has to know of an image that is here.
func (r *Runtime) describe(ctx context.Context, img containerd.Image) (node.Image, error) {
	config, err := r.imageConfig(ctx, img)
	if err != nil {
		return node.Image{}, err
	}

	manifest, err := ident.ParseDigest(img.Target().Digest.String())
	if err != nil {
		return node.Image{}, problem.New(problem.Invalid, ruleImageDigest, "image %s: %w", img.Name(), err).Want("a SHA-256")
	}

	size, err := img.Size(ctx)
	if err != nil {
		return node.Image{}, fmt.Errorf("size of image %s: %w", img.Name(), err)
	}
	return node.Image{Manifest: manifest, Config: config, Size: size}, nil
}

// imageConfig returns the bytes of an image's config, whose digest was checked
// when they were stored.
func (r *Runtime) imageConfig(ctx context.Context, img containerd.Image) ([]byte, error) {
	desc, err := img.Config(ctx)
	if err != nil {
		return nil, fmt.Errorf("config of image %s: %w", img.Name(), err)
	}

	b, err := content.ReadBlob(ctx, img.ContentStore(), desc)
	if err != nil {
		return nil, fmt.Errorf("config of image %s: %w", img.Name(), err)
	}
	return b, nil
}

// imageError explains why an image is not to be had.
func imageError(ref ident.ImageRef, err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("image %s: %w", ref, err)
	case errdefs.IsNotFound(err):
		return problem.New(problem.NotFound, problem.RuleImageMissing, "image %s is not here", ref).
			Fix("build it (cupel runtime build %s), or check its name", runtimeOf(ref))
	case errdefs.IsInvalidArgument(err):
		return problem.New(problem.Invalid, ruleImageReference, "image %q: %w", ref, err).Want("HOST:PORT/NAME@sha256:…")
	}

	if _, ok := errors.AsType[*url.Error](err); ok {
		return problem.New(problem.Unavailable, problem.RuleRegistryUnreachable, "fetch image %s: %w", ref, err).
			Fix("check that the registry runs")
	}
	return problem.New(problem.Unavailable, ruleImageFetch, "fetch image %s: %w", ref, err).
		Fix("look at the registry and its disk (dmesg); what is damaged there is replaced by: cupel runtime build %s", runtimeOf(ref))
}

// runtimeOf is the name of the runtime that an image is of.
func runtimeOf(ref ident.ImageRef) string {
	repository, _, _ := strings.Cut(string(ref), "@")
	return path.Base(repository)
}

func grpcError(err error) error { return errgrpc.ToNative(err) }
