package volume

import (
	"cupel.dev/cupel/api/problem"
)

// Rules by which a volume is refused.
const (
	// RuleTooLarge: the volume does not fit into its share of the instance's memory.
	// Mend: give the instances a larger --memory, or keep less in the volume.
	RuleTooLarge problem.Rule = "volume_too_large"

	// RuleArchive: the volume holds something that can't be stored, such as a device, or its stored archive is not of a volume's form.
	// Mend: remove what is no file, folder or link; if the archive is malformed, commit the volume again from an intact generation.
	RuleArchive problem.Rule = "volume_archive"
)
