package node

import (
	"context"
	"io"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/wire"
)

// This file is what an instance has from its node: how it is launched, and the
// snapshots that it asks for. An operator can give something else. Nothing relies
// on this file: the CAS refuses another launch, the launcher another snapshot.

// launchSpec is the OCI specification that an instance's container is made of: what
// its launch profile and its image determine, and so its measurement, with what is
// free filled in.
func launchSpec(profile launch.Version, img launch.ImageConfig, free launch.Free) ([]byte, error) {
	measured, err := launch.Spec(profile, img)
	if err != nil {
		return nil, err
	}
	return launch.Fill(measured, free)
}

// openVolume opens the snapshot that the instance asks for; size is -1 where it
// isn't known.
func (s *nodeSocket) openVolume(ctx context.Context, v wire.Snapshot) (body io.ReadCloser, size int64, err error) {
	body, size, err = s.volumes.open(ctx, v)

	// A generation that isn't here where newer ones are tells that the CAS went back. The
	// launcher only sees that it isn't here, so postStatus says it for the launcher.
	var wentBack *problem.Error
	if problem.KindOf(err) == problem.NotFound {
		wentBack = s.volumes.newer(v.Volume, v.Generation)
	}
	s.casWentBack.Store(wentBack)
	return body, size, err
}
