//go:build !cupel_hostile

package node

import (
	"context"
	"io"

	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/launch"
)

// hostility is what a hostile operator's node does otherwise: in this build,
// nothing. The tests of the launch and of volumes build the other one.
type hostility struct{}

func newHostility() hostility { return hostility{} }

func (hostility) free(*launch.Free) {}

func (hostility) spec(spec []byte) ([]byte, error) { return spec, nil }

func (hostility) open(ctx context.Context, s *volumeStore, id ident.Digest, generation uint64) (io.ReadCloser, int64, error) {
	return s.open(ctx, id, generation)
}
