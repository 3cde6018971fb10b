package containerd

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleContainerStart: containerd could not start an instance. Mend: look at the node's containerd log.
	ruleContainerStart problem.Rule = "container_start"

	// ruleContainerdMissing: the program containerd is not installed. Mend: install the packages containerd and runc.
	ruleContainerdMissing problem.Rule = "containerd_missing"

	// ruleContainerdStart: the node's own containerd did not come up, or does not answer yet. Mend: run the command again, which
	// waits for the same process; if that does not help, look at containerd's log and end the process.
	ruleContainerdStart problem.Rule = "containerd_start"

	// ruleImageDigest: an image is stored under a digest that is no SHA-256. Mend: build the runtime again, or name an
	// image by its SHA-256.
	ruleImageDigest problem.Rule = "image_digest"

	// ruleImageFetch: an image could not be fetched or unpacked. Mend: look at the registry and its disk; what is damaged
	// there, cupel runtime build replaces.
	ruleImageFetch problem.Rule = "image_fetch"

	// ruleImageReference: an image is named in a way that no registry understands. Mend: name it as
	// HOST:PORT/NAME@sha256:DIGEST.
	ruleImageReference problem.Rule = "image_reference"
)
