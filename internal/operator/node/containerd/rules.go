package containerd

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleContainerStart    problem.Rule = "container_start"
	ruleContainerdMissing problem.Rule = "containerd_missing"
	ruleContainerdStart   problem.Rule = "containerd_start"
	ruleImageDigest       problem.Rule = "image_digest"
	ruleImageFetch        problem.Rule = "image_fetch"
	ruleImageReference    problem.Rule = "image_reference"
)
