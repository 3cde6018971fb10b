package rebuild

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"cupel.dev/cupel/api/ident"
)

// Media types of a runtime's sources: the OCI artifact that keeps every byte
// of a build, so that it can be repeated after Debian has moved on.
const (
	ArtifactType        = "application/vnd.cupel.runtime.sources.v1"
	MediaTypeEmpty      = "application/vnd.oci.empty.v1+json"
	MediaTypeLock       = "application/vnd.cupel.runtime.lock.v1+yaml"
	MediaTypeDefinition = "application/vnd.cupel.runtime.definition.v1+yaml"
	MediaTypeInRelease  = "application/vnd.cupel.debian.inrelease"
	MediaTypePackages   = "application/vnd.cupel.debian.packages+xz"
	MediaTypeDeb        = "application/vnd.debian.binary-package"

	// MaxManifest is the most bytes of a manifest that are read.
	MaxManifest = 4 << 20

	// titleKey is OCI's name for the name of a file (OCI image specification, annotations).
	titleKey = "org.opencontainers.image.title"
)

// EmptyConfig is the config blob of artifacts that have none (OCI image specification,
// manifest, guidance for an empty descriptor).
const EmptyConfig = "{}"

// SourcesManifest returns the manifest of the artifact that holds the lock, the
// definition and everything that the lock names.
func SourcesManifest(l *Lock, lock, definition []byte) ([]byte, error) {
	m := Manifest{
		SchemaVersion: 2,
		MediaType:     MediaTypeManifest,
		ArtifactType:  ArtifactType,
		Config:        describe(MediaTypeEmpty, ident.Sum([]byte(EmptyConfig)), int64(len(EmptyConfig)), ""),
	}
	m.Layers = append(m.Layers,
		describe(MediaTypeLock, ident.Sum(lock), int64(len(lock)), l.Runtime+".lock"),
		describe(MediaTypeDefinition, ident.Sum(definition), int64(len(definition)), l.Runtime+".yml"))

	for _, x := range l.Indices {
		m.Layers = append(m.Layers,
			describe(MediaTypeInRelease, x.InRelease.SHA256, x.InRelease.Size, x.Archive+"/"+x.InRelease.Path),
			describe(MediaTypePackages, x.Packages.SHA256, x.Packages.Size, x.Archive+"/"+x.Packages.Path))
	}

	seen := map[ident.Digest]bool{}
	for _, p := range l.Packages {
		if !seen[p.SHA256] {
			m.Layers = append(m.Layers, describe(MediaTypeDeb, p.SHA256, p.Size, p.Path))
		}
		seen[p.SHA256] = true
	}

	return json.Marshal(m)
}

// ociDigest is a digest as OCI writes it (OCI image specification, descriptor, digests).
func ociDigest(d ident.Digest) string { return "sha256:" + d.String() }

// describe names a blob, with the name of its file as a title.
func describe(mediaType string, d ident.Digest, size int64, title string) Descriptor {
	desc := Descriptor{MediaType: mediaType, Digest: ociDigest(d), Size: size}
	if title != "" {
		desc.Annotations = map[string]string{titleKey: title}
	}

	return desc
}

// Sources is what an artifact's manifest says that it holds.
type Sources struct {
	Lock       ident.Digest
	Definition ident.Digest
	Blobs      map[ident.Digest]int64 // all of them, by size
}

// blob is one of the blobs, by its digest.
func (s *Sources) blob(d ident.Digest) Blob { return Blob{SHA256: d, Size: s.Blobs[d]} }

// ParseSources reads the manifest of a runtime's sources as a registry hands it
// out. It proves nothing: what the digests lead to is checked by Build.
func ParseSources(manifest []byte) (*Sources, error) {
	s, err := parseSources(manifest)
	if err != nil {
		return nil, invalid(ruleRuntimeArtifact, "%w", err).Want("a manifest of type %s", ArtifactType)
	}

	return s, nil
}

// parseSources is ParseSources, with errors of no rule.
func parseSources(manifest []byte) (*Sources, error) {
	if len(manifest) > MaxManifest {
		return nil, fmt.Errorf("manifest of more than %d bytes", MaxManifest)
	}

	var m Manifest
	dec := json.NewDecoder(bytes.NewReader(manifest))
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}

	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("manifest: bytes after its end")
	}

	if m.SchemaVersion != 2 || m.MediaType != MediaTypeManifest || m.ArtifactType != ArtifactType {
		return nil, fmt.Errorf("manifest of type %.80q", m.ArtifactType)
	}

	s := &Sources{Blobs: map[ident.Digest]int64{}}
	for i, layer := range m.Layers {
		hex, ok := strings.CutPrefix(layer.Digest, "sha256:")
		d, err := ident.ParseDigest(hex)
		if !ok || err != nil || layer.Size < 0 {
			return nil, fmt.Errorf("layer %d: digest %.80q, size %d", i+1, layer.Digest, layer.Size)
		}

		switch layer.MediaType {
		case MediaTypeLock:
			if !s.Lock.IsZero() || layer.Size > MaxLock {
				return nil, fmt.Errorf("layer %d: two locks, or one too large", i+1)
			}
			s.Lock = d
		case MediaTypeDefinition:
			if !s.Definition.IsZero() || layer.Size > MaxDefinition {
				return nil, fmt.Errorf("layer %d: two definitions, or one too large", i+1)
			}
			s.Definition = d
		}

		s.Blobs[d] = layer.Size
	}

	if s.Lock.IsZero() || s.Definition.IsZero() {
		return nil, errors.New("manifest without lock or definition")
	}

	return s, nil
}
