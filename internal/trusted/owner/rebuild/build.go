package rebuild

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/owner/rebuild/debian"
)

// Builder builds images. Its zero value trusts Debian's archive keys.
type Builder struct {
	// Keyring replaces Debian's keys; for tests.
	Keyring debian.Keyring

	// TempDir is where contents are spooled; "" is the system's.
	TempDir string

	// Verified, if set, remembers indices from one call to the next.
	Verified *Indices

	// Observe is told of every check that passed, in order.
	Observe func(Check)
}

// Check is one check that passed.
type Check struct {
	Rule   problem.Rule `json:"rule"`
	Detail string       `json:"detail"`
}

// observe tells of a check that passed.
func (b Builder) observe(c Check) {
	if b.Observe != nil {
		b.Observe(c)
	}
}

// Build verifies the lock against Debian's signature and the definition, and
// builds the image. The caller closes it.
func (b Builder) Build(ctx context.Context, def *Definition, l *Lock, src Source) (*Image, error) {
	if l.Runtime != def.Name || l.Suite != def.Suite || l.Architecture != def.Architecture || l.Definition != def.Digest() {
		return nil, refused(ruleLockDefinition, "the lock was written for definition %s of runtime %s", l.Definition, l.Runtime).
			Want("definition %s of runtime %s", def.Digest(), def.Name).
			Fix("compare the definitions; if yours is right, a lock of its own comes from: cupel runtime build %s --update", def.Name)
	}

	releases, lists, err := b.indices(ctx, def, l, src)
	if err != nil {
		return nil, err
	}

	want, err := resolve(def, l, lists)
	if err != nil {
		return nil, err
	}

	if err := comparePackages(def, l, want, lists); err != nil {
		return nil, err
	}

	b.observe(Check{rulePackages, fmt.Sprintf("%d packages: all that %s depends on, the newest signed versions, nothing else", len(want), def.Name)})

	// The image is dated by the newest of the indices, whenever it is built.
	var date time.Time
	for _, r := range releases {
		if r.Date.After(date) {
			date = r.Date
		}
	}

	return b.assemble(ctx, def, l, src, date)
}

// assemble unpacks and packs; everything was verified but the .debs' bytes,
// whose hashes are checked while they are read.
func (b Builder) assemble(ctx context.Context, def *Definition, l *Lock, src Source, date time.Time) (_ *Image, err error) {
	dir, err := os.MkdirTemp(b.TempDir, "cupel-rebuild-")
	if err != nil {
		return nil, spaceError(err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()

	spool, err := os.Create(filepath.Join(dir, "spool"))
	if err != nil {
		return nil, spaceError(err)
	}

	defer func() {
		_ = spool.Close()
		_ = os.Remove(spool.Name())
	}()

	t := newTree(spool, def.Drop)
	if err := t.unpack(ctx, l, src); err != nil {
		return nil, err
	}
	b.observe(Check{rulePackageBytes, fmt.Sprintf("%d packages have the bytes that Debian signed for", len(l.Packages))})

	if err := t.finish(def); err != nil {
		if diskerror.Full(err) {
			return nil, spaceError(err)
		}
		return nil, invalid(ruleRuntimeLayout, "%w", err).Fix("correct the definition of %s", def.Name)
	}

	img := &Image{dir: dir, date: date}
	if err := img.writeLayer(ctx, t); err != nil {
		return nil, err
	}

	if err := img.compose(def); err != nil {
		return nil, err
	}

	b.observe(Check{ruleImage, fmt.Sprintf("%d bytes in %d paths, config sha256 %s", img.layer.Size, len(t.nodes)-1, img.ConfigDigest())})
	return img, nil
}

// spaceError explains an error of a disk that takes nothing.
func spaceError(err error) error {
	return diskerror.Explain(err, os.TempDir(), "temporary files and the state folder (TMPDIR and --state name others)")
}

// Image is a built image: config and manifest in memory, one uncompressed layer
// on disk.
type Image struct {
	dir      string
	date     time.Time
	layer    Blob
	config   []byte
	manifest []byte
	close    sync.Once
}

// writeLayer packs the tree into the image's layer and hashes it.
func (img *Image) writeLayer(ctx context.Context, t *tree) error {
	f, err := os.Create(img.layerPath())
	if err != nil {
		return spaceError(err)
	}

	h := newHash()
	w := bufio.NewWriterSize(io.MultiWriter(f, h), 1<<20)
	err = t.pack(ctx, w, img.date)
	err = errors.Join(err, w.Flush())

	var size int64
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}

	if err := errors.Join(err, f.Close()); err != nil {
		return spaceError(fmt.Errorf("write layer: %w", err))
	}

	img.layer = Blob{SHA256: h.digest(), Size: size}
	return nil
}

// Media types of what an image consists of (OCI image specification, media types).
const (
	MediaTypeManifest = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeConfig   = "application/vnd.oci.image.config.v1+json"
	MediaTypeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// ociConfig is the OCI image config (OCI image specification, image configuration), as far
// as it is used here. Its bytes are measured, so fields are never reordered.
type ociConfig struct {
	Created      string `json:"created"`
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       struct {
		User       string   `json:"User"`
		Env        []string `json:"Env"`
		Entrypoint []string `json:"Entrypoint,omitempty"`
		Cmd        []string `json:"Cmd,omitempty"`
		WorkingDir string   `json:"WorkingDir"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// Descriptor names a blob in a manifest (OCI image specification, content descriptors).
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Manifest is an OCI manifest (OCI image specification, image manifest).
type Manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        Descriptor   `json:"config"`
	Layers        []Descriptor `json:"layers"`
}

// compose writes the config, which names the layer, and the manifest, which names both.
func (img *Image) compose(def *Definition) (err error) {
	var c ociConfig
	c.Created = img.date.UTC().Format(time.RFC3339)

	c.Architecture = def.Architecture
	c.OS = "linux"
	c.Config.User = "0:0"

	if def.User == userApp {
		c.Config.User = fmt.Sprintf("%d:%d", appID, appID)
	}

	for k, v := range def.Env {
		c.Config.Env = append(c.Config.Env, k+"="+v)
	}
	slices.Sort(c.Config.Env)

	c.Config.Entrypoint = def.Entrypoint
	c.Config.Cmd = def.Cmd
	c.Config.WorkingDir = def.Cwd

	// A diff id is the digest of a layer's uncompressed tar archive, which ours is.
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = []string{ociDigest(img.layer.SHA256)}

	if img.config, err = json.Marshal(c); err != nil {
		return fmt.Errorf("image config: %w", err)
	}

	m := Manifest{
		SchemaVersion: 2,
		MediaType:     MediaTypeManifest,
		Config:        describe(MediaTypeConfig, ident.Sum(img.config), int64(len(img.config)), ""),
		Layers:        []Descriptor{describe(MediaTypeLayer, img.layer.SHA256, img.layer.Size, "")},
	}

	if img.manifest, err = json.Marshal(m); err != nil {
		return fmt.Errorf("image manifest: %w", err)
	}

	return nil
}

// layerPath is where the layer is until Close.
func (img *Image) layerPath() string { return filepath.Join(img.dir, "layer.tar") }

// Config is the OCI image config's bytes: what launch.ParseImageConfig reads.
func (img *Image) Config() []byte { return slices.Clone(img.config) }

// ConfigDigest names the image: it covers the layer through its diff id.
func (img *Image) ConfigDigest() ident.Digest { return ident.Sum(img.config) }

// DiffIDs are the hashes of the uncompressed layers, lowest first.
func (img *Image) DiffIDs() []ident.Digest { return []ident.Digest{img.layer.SHA256} }

// Manifest is the OCI manifest's bytes.
func (img *Image) Manifest() []byte { return slices.Clone(img.manifest) }

// ManifestDigest is the digest by which registries know the image.
func (img *Image) ManifestDigest() ident.Digest { return ident.Sum(img.manifest) }

// Size is the layer's size in bytes.
func (img *Image) Size() int64 { return img.layer.Size }

// OpenLayer opens the layer, an uncompressed tar archive.
func (img *Image) OpenLayer() (io.ReadCloser, error) { return os.Open(img.layerPath()) }

// Close removes what the image has on disk.
func (img *Image) Close() error {
	var err error
	img.close.Do(func() { err = os.RemoveAll(img.dir) })
	return err
}

// WriteLayout writes the image as an OCI image layout (OCI image specification, image
// layout) into dir, which it makes.
func (img *Image) WriteLayout(dir string) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return spaceError(err)
	}

	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.index.v1+json",
		"manifests":     []Descriptor{describe(MediaTypeManifest, img.ManifestDigest(), int64(len(img.manifest)), "")},
	})
	if err != nil {
		return fmt.Errorf("image index: %w", err)
	}

	for name, b := range map[string][]byte{
		filepath.Join(blobs, img.ConfigDigest().String()):   img.config,
		filepath.Join(blobs, img.ManifestDigest().String()): img.manifest,
		filepath.Join(dir, "oci-layout"):                    []byte(`{"imageLayoutVersion":"1.0.0"}`),
		filepath.Join(dir, "index.json"):                    index,
	} {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			return spaceError(err)
		}
	}

	layer, err := img.OpenLayer()
	if err != nil {
		return err
	}
	defer layer.Close()

	f, err := os.Create(filepath.Join(blobs, img.layer.SHA256.String()))
	if err != nil {
		return spaceError(err)
	}

	_, err = io.Copy(f, layer)
	return spaceError(errors.Join(err, f.Close()))
}
