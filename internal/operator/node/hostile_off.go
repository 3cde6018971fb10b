//go:build !cupel_hostile

package node

import (
	"context"
	"io"

	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/wire"
)

// hostility is what a hostile operator's node does otherwise: in this build,
// nothing. The tests of the launch and of volumes build the other one.
type hostility struct{}

func newHostility() hostility { return hostility{} }

func (hostility) free(*launch.Free) {}

func (hostility) spec(spec []byte) ([]byte, error) { return spec, nil }

func (hostility) open(ctx context.Context, s *volumeStore, v wire.Snapshot) (io.ReadCloser, int64, error) {
	return s.open(ctx, v)
}
