package registry

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/internal/trusted/wire"
)

// damages are what a power cut, a failing disk or a slip of the hand makes of a file.
var damages = map[string]func(path string, was []byte) error{
	"empty":     func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
	"truncated": func(path string, was []byte) error { return os.WriteFile(path, was[:len(was)/2], 0o600) },
	"longer":    func(path string, was []byte) error { return os.WriteFile(path, append(was, 0), 0o600) },
	"one bit": func(path string, was []byte) error {
		was[len(was)/2] ^= 1
		return os.WriteFile(path, was, 0o600)
	},
	"gone": func(path string, _ []byte) error { return os.Remove(path) },
	"a folder": func(path string, _ []byte) error {
		return errors.Join(os.Remove(path), os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
	},
	"a link in a circle": func(path string, _ []byte) error { return errors.Join(os.Remove(path), os.Symlink(path, path)) },
}

// artifact is something that can be stored, and all its files.
type artifact struct {
	manifest []byte
	blobs    blobs
}

func newArtifact(t *testing.T, layer []byte) artifact {
	t.Helper()
	of := func(mediaType string, b []byte) rebuild.Descriptor {
		return rebuild.Descriptor{MediaType: mediaType, Digest: "sha256:" + ident.Sum(b).String(), Size: int64(len(b))}
	}
	config := []byte(rebuild.EmptyConfig)
	manifest, err := json.Marshal(rebuild.Manifest{SchemaVersion: 2, MediaType: rebuild.MediaTypeManifest, ArtifactType: "application/x-test",
		Config: of(rebuild.MediaTypeEmpty, config), Layers: []rebuild.Descriptor{of("application/x-test", layer)}})
	if err != nil {
		t.Fatal(err)
	}
	return artifact{manifest, blobs{ident.Sum(layer): layer, ident.Sum(config): config}}
}

// TestDamagedImage: whatever becomes of any file of an image, Whole tells it, storing the
// image again mends it, and garbage is collected then.
func TestDamagedImage(t *testing.T) {
	const ref = "runtimes/r:latest"
	layer := noise(1, 1<<16)
	a := newArtifact(t, layer)
	manifest, config := ident.Sum(a.manifest), ident.Sum([]byte(rebuild.EmptyConfig))
	files := func(s stored) map[string]string {
		return map[string]string{
			"manifest":      s.blob(manifest),
			"config":        s.blob(config),
			"layer":         s.blob(ident.Sum(layer)),
			"layer link":    s.layerLink("runtimes/r", ident.Sum(layer)),
			"revision link": s.revisionLink("runtimes/r", manifest),
			"tag":           s.tagLink("runtimes/r", "latest"),
			"tag's index":   s.of("runtimes/r", "_manifests", "tags", "latest", "index", "sha256", manifest.String(), "link"),
		}
	}
	ctx, dir := t.Context(), t.TempDir()
	c, stop := serve(t, dir)
	beside := newArtifact(t, noise(2, 100))
	for _, r := range []rebuild.Ref{ref, "runtimes/other:latest"} {
		if err := c.PushArtifact(ctx, r, beside.manifest, beside.blobs); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PushArtifact(ctx, ref, a.manifest, a.blobs); err != nil {
		t.Fatal(err)
	}
	for what, path := range files(stored{filepath.Join(dir, "docker", "registry", "v2")}) {
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for kind, damage := range damages {
			if err := damage(path, bytes.Clone(was)); err != nil {
				t.Fatal(err)
			}

			_, err = c.Whole(ctx, ref)
			p := problem.From(err)
			if what != "tag's index" && (err == nil || p.Rule != RuleDamaged && p.Rule != "registry_missing") {
				t.Errorf("%s, %s: whole? %v", what, kind, err)
			}
			if what == "manifest" && (p.Rule != RuleDamaged || !strings.Contains(p.Mend, "cupel runtime build r;")) {
				t.Errorf("%s, %s: whole? %v", what, kind, err)
			}
			if err := c.PushArtifact(ctx, ref, a.manifest, a.blobs); err != nil {
				t.Errorf("%s, %s: stored again: %v", what, kind, err)
			}
			if got, err := c.Whole(ctx, ref); err != nil || got != manifest {
				t.Errorf("%s, %s: after it was stored again: %s, %v", what, kind, got, err)
			}
		}
	}

	stop()
	s, err := Open(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if done, err := s.collect(ctx); !done || err != nil {
		t.Errorf("collect: %t, %v", done, err)
	}
}

// TestDamagedManifestKeepsGarbage: while it can't be known what a tag leads to, nothing is
// removed, and the reason names the tag and the way out.
func TestDamagedManifestKeepsGarbage(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	c, stop := serve(t, dir)
	a, beside := newArtifact(t, noise(1, 1000)), newArtifact(t, noise(2, 1000))
	for ref, a := range map[rebuild.Ref]artifact{"runtimes/r:latest": a, "runtimes/other:latest": beside, "runtimes/moved:latest": a} {
		if err := c.PushArtifact(ctx, ref, a.manifest, a.blobs); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	s := stored{filepath.Join(dir, "docker", "registry", "v2")}
	garbage := s.blob(ident.Sum([]byte("garbage")))
	path := s.blob(ident.Sum(beside.manifest))
	err := errors.Join(os.MkdirAll(filepath.Dir(garbage), 0o700), os.WriteFile(garbage, []byte("garbage"), 0o600), os.WriteFile(path, []byte("{"), 0o600))
	if err != nil {
		t.Fatal(err)
	}

	server, err := Open(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	done, err := server.collect(ctx)
	p := problem.From(err)
	if done || p == nil || p.Rule != RuleDamaged || !strings.Contains(p.Actual, "runtimes/other:latest can't be read") || !strings.Contains(p.Mend, "cupel runtime build other;") {
		t.Errorf("%t, %v", done, err)
	}
	if _, err := os.Stat(garbage); err != nil {
		t.Errorf("while a manifest is damaged: %v", err)
	}
	if err := os.WriteFile(path, beside.manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	if done, err := server.collect(ctx); !done || err != nil {
		t.Errorf("once it is whole: %t, %v", done, err)
	}
	if _, err := os.Stat(garbage); err == nil {
		t.Error("once it is whole, garbage stays")
	}
}

// TestDamagedConfig: an image whose config is damaged is refused with its name.
func TestDamagedConfig(t *testing.T) {
	for kind, damage := range damages {
		dir := t.TempDir()
		c, _ := serve(t, dir)
		a := newArtifact(t, noise(1, 1000))
		const ref = "runtimes/r:latest"
		if err := c.PushArtifact(t.Context(), ref, a.manifest, a.blobs); err != nil {
			t.Fatal(err)
		}
		config := []byte(rebuild.EmptyConfig)
		if err := damage(stored{filepath.Join(dir, "docker", "registry", "v2")}.blob(ident.Sum(config)), bytes.Clone(config)); err != nil {
			t.Fatal(err)
		}
		_, err := c.PullImage(t.Context(), ref)
		p := problem.From(err)
		if err == nil || p.Rule != RuleDamaged || !strings.Contains(p.Mend, "cupel runtime build r;") {
			t.Errorf("%s: %v", kind, err)
		}
		t.Log(p)
	}
}

// TestDamagedSnapshot: a volume's damaged snapshot is never given out as whole, and the
// next generation can be stored.
func TestDamagedSnapshot(t *testing.T) {
	for kind, damage := range damages {
		for _, what := range []string{"manifest", "ciphertext"} {
			dir := t.TempDir()
			c, _ := serve(t, dir)
			b := noise(1, 1<<16)
			at := wire.Snapshot{Generation: 1}
			if err := c.Push(t.Context(), at, int64(len(b)), opener(b)); err != nil {
				t.Fatal(err)
			}
			s := stored{filepath.Join(dir, "docker", "registry", "v2")}
			path := s.blob(ident.Sum(b))
			if what == "manifest" {
				d, _, err := readLink(s.tagLink(snapshotRepo(at.Volume), strings.SplitN(string(snapshotRef(at)), ":", 2)[1]))
				if err != nil {
					t.Fatal(err)
				}
				path = s.blob(d)
			}
			was, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(path, was); err != nil {
				t.Fatal(err)
			}

			r, err := c.Pull(t.Context(), at)
			if err == nil {
				_, err = io.ReadAll(r)
				_ = r.Close()
			}
			if err == nil {
				t.Errorf("%s, %s: given out as whole", what, kind)
			}
			if r != nil {
				t.Errorf("%s, %s: begun to be given out", what, kind)
			}
			p := problem.From(err)
			if p.Rule != RuleDamaged || !strings.Contains(p.Mend, "cupel volume reset") {
				t.Errorf("%s, %s: %v", what, kind, err)
			}
			if what == "ciphertext" && !strings.Contains(p.Actual, "sha256:"+ident.Sum(b).String()) {
				t.Errorf("%s, %s: which blob? %v", what, kind, err)
			}
			t.Log(what, kind, err)
			if r, err = c.Stream(t.Context(), at); err == nil {
				_, err = io.ReadAll(r)
				_ = r.Close()
			}
			if streamed := problem.From(err); err == nil || streamed.Error() != p.Error() {
				t.Errorf("%s, %s: read once: %v", what, kind, err)
			}
			next := at
			next.Generation++
			if err := c.Push(t.Context(), next, int64(len(b)), opener(b)); err != nil {
				t.Errorf("%s, %s: the next: %v", what, kind, err)
			}
			if r, err = c.Pull(t.Context(), next); err != nil {
				t.Errorf("%s, %s: the next: %v", what, kind, err)
				continue
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s, %s: the next: %d bytes, %v", what, kind, len(got), err)
			}
			_ = r.Close()
		}
	}
}

// TestOnlyDamageGoes: nothing outside the folder's own names is touched, and what is whole
// stays as it is.
func TestOnlyDamageGoes(t *testing.T) {
	s := stored{t.TempDir()}
	d := ident.Sum([]byte("x"))
	outside := filepath.Join(filepath.Dir(s.root), hex.EncodeToString(d[:]))
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, repository := range []string{"../..", "/etc", "", "a/../../.."} {
		if err := errors.Join(s.clearBlob(repository, d.String()), s.manifest(repository, "latest"), s.manifest("r", "..")); err != nil {
			t.Errorf("%q: %v", repository, err)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(s.blob(d)), 0o700), os.WriteFile(s.blob(d), []byte("x"), 0o600), s.clearBlob("r", d.String())); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(s.blob(d)); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}
