package launcher

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/sealed"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/wire"
)

// shelf is a store that keeps the snapshot that it was given last.
type shelf struct {
	asked wire.Snapshot
	body  []byte
	tag   ident.Digest
}

func (s *shelf) Get(_ context.Context, want wire.Snapshot) (io.ReadCloser, int64, error) {
	s.asked = want
	return io.NopCloser(bytes.NewReader(s.body)), int64(len(s.body)), nil
}

func (s *shelf) Put(_ context.Context, _ ident.Digest, _ uint64, body io.Reader, tag func() ident.Digest) error {
	b, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	s.body, s.tag = b, tag()
	return nil
}

// TestVolumeChangesItsFormatAtItsNextCommit: a volume that an older launcher
// sealed is opened, and what is committed then is of the version that is
// written today.
func TestVolumeChangesItsFormatAtItsNextCommit(t *testing.T) {
	need.Root(t)
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("..", "..", "sealed", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tag, err := ident.ParseDigest(strings.TrimSpace(string(read("v1.tag"))))
	if err != nil {
		t.Fatal(err)
	}
	open := func(generation uint64, tag ident.Digest) *openVolume {
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = root.Close() })
		return &openVolume{
			Volume: wire.Volume{
				ID:         ident.Sum([]byte("a volume")),
				Generation: generation,
				Tag:        tag,
			},
			key:   secret.New(bytes.Repeat([]byte{7}, sealed.KeySize)),
			root:  root,
			limit: 1 << 20,
		}
	}
	version := func(snapshot []byte) uint16 { return binary.BigEndian.Uint16(snapshot[8:]) }

	s := &shelf{body: read("v1.snapshot")}
	before := open(3, tag)
	if err := before.fetch(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	kept, err := before.root.ReadFile("data/kept.txt")
	if err != nil || !strings.HasPrefix(string(kept), "line 1 of what was kept before\n") {
		t.Fatalf("%.40q, %v", kept, err)
	}

	next, err := before.put(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if version(s.body) != sealed.Version || next != s.tag {
		t.Errorf("committed in version %d with tag %s, the node was told %s", version(s.body), next, s.tag)
	}

	after := open(4, next)
	if err := after.fetch(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if again, err := after.root.ReadFile("data/kept.txt"); err != nil || !bytes.Equal(again, kept) {
		t.Errorf("%.40q, %v", again, err)
	}
}
