package build

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleMirrorAddress: the address of a mirror can't be read as a URL. Mend: write it as in
	// --mirror http://deb.debian.org.
	ruleMirrorAddress problem.Rule = "mirror_address"

	// ruleMirrorUnreachable: a mirror of Debian can't be reached, or its answer is an error or breaks
	// off. Mend: check the network and apt's proxy settings, or choose another mirror with --mirror.
	ruleMirrorUnreachable problem.Rule = "mirror_unreachable"
)
