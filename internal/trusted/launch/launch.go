package launch

import (
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/fieldhash"
)

// MaxLauncher is the most bytes of a launcher that are read.
const MaxLauncher = 64 << 20

// Where things are inside an instance, before the launcher builds the app's
// own root.
const (
	// LauncherPath is the launcher's place: a read-only bind mount.
	LauncherPath = "/cupel-init"
	// SocketDir is the instance's socket directory: the sockets of the LAS
	// and of the node.
	SocketDir = "/run/cupel"
	// LASAddr is the value of EnvLAS on plain nodes.
	LASAddr = "unix:" + SocketDir + "/las.sock"
)

// The host variables: the only environment of the launcher, and free.
const (
	EnvCAS      = "CUPEL_CAS_ADDR"  // HOST:PORT of the CAS's instances' API
	EnvLAS      = "CUPEL_LAS_ADDR"  // unix:PATH or HOST:PORT
	EnvConfigID = "CUPEL_CONFIG_ID" // SESSION/SERVICE
	EnvGrant    = "CUPEL_GRANT"     // the right to run, a token; may be empty. Since v2
)

// Measure returns the measurement of a launch: of the spec that the runtime
// got, on the image that its root stands on, with the launcher file's digest.
// It accepts any well-formed spec: a changed launch is another measurement.
// It refuses a spec whose memory limit is missing or whose swap limit is not
// the memory limit, since such an instance's memory can reach the disk.
func Measure(specJSON []byte, img ImageConfig, launcher ident.Digest) (ident.Measurement, error) {
	spec, err := parseObject(specJSON)
	if err != nil {
		return ident.Measurement{}, invalid(ruleLaunchSpec, "runtime spec: %w", err)
	}

	if err := requireMemoryLimit(spec); err != nil {
		return ident.Measurement{}, err
	}
	return measure(spec, img, launcher)
}

// Expected returns the measurement of an unchanged launch of img under that
// version of the profile by the launcher with that digest.
func Expected(v Version, img ImageConfig, launcher ident.Digest) (ident.Measurement, error) {
	specJSON, err := Spec(v, img)
	if err != nil {
		return ident.Measurement{}, err
	}

	spec, err := parseObject(specJSON)
	if err != nil {
		return ident.Measurement{}, invalid(ruleLaunchSpec, "runtime spec: %w", err)
	}
	return measure(spec, img, launcher)
}

// measure hashes, length-prefixed: the version's domain, the normalised spec, the
// image's config digest, its diff ids in order, the launcher's digest.
func measure(spec map[string]any, img ImageConfig, launcher ident.Digest) (ident.Measurement, error) {
	p := profiles[versionOf(spec)]
	if err := freeFields(spec, p.variables); err != nil {
		return ident.Measurement{}, err
	}

	var ids []byte
	for _, d := range img.DiffIDs {
		ids = append(ids, d[:]...)
	}
	return fieldhash.Of([]byte(p.domain), canonical(nil, spec), img.Config[:], ids, launcher[:]), nil
}
