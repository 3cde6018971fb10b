package launch

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleImageConfig: the image's config can't be launched: it is not in the form of OCI, not for linux, or holds what no command line can carry.
	// Mend: build the image again, with `cupel runtime build` or another builder of OCI images.
	ruleImageConfig problem.Rule = "image_config"

	// ruleLaunchProfile: a stored launch names a profile that this program does not know.
	// Mend: install the newer release again that wrote it.
	ruleLaunchProfile problem.Rule = "launch_profile"

	// ruleLaunchSpec: a runtime specification can't be read, or was not made by a launch profile.
	// Mend: start the instance by the launch profile; deploying again does.
	ruleLaunchSpec problem.Rule = "launch_spec"

	// ruleSwapLimit: the instance's swap limit is not its memory limit, so its memory could reach the host's disk.
	// Mend: start the instance by the launch profile; deploying again does.
	ruleSwapLimit problem.Rule = "swap_limit"
)
