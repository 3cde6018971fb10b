package volume

import (
	"cupel.dev/cupel/api/problem"
)

// Rules by which a volume is refused.
const (
	// RuleArchive: the volume holds something that can't be stored, such as a device, or its stored archive is not of a volume's form.
	// Mend: remove what is no file, folder or link; if the archive is malformed, commit the volume again from an intact generation.
	RuleArchive problem.Rule = "volume_archive"
)
