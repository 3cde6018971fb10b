package wire

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that both ends of a connection go by.
const (
	// ruleCASChain: what answers does not present the certificates of a CAS.
	// Mend: check the address: what answers there is no CAS.
	ruleCASChain problem.Rule = "cas_chain"

	// ruleLASAddress: the address of the node's attestation service is not unix: and an absolute path.
	// Mend: start the instance by the launch profile; deploying again does.
	ruleLASAddress problem.Rule = "las_address"

	// RuleNotCommitted: the app ended in a way in which nothing that it wrote is kept.
	// Mend: look at what the app printed, and let it end with 0, or by the stop signal of its session.
	RuleNotCommitted problem.Rule = "not_committed"

	// RuleVolumeMissing: the node does not have the generation of a volume that the CAS names as the newest.
	// Mend: where the CAS was put back from an older backup put the newer one back; else restore the snapshot, or start the
	// volume afresh (cupel volume reset).
	RuleVolumeMissing problem.Rule = "volume_missing"

	// RuleVolumeTooLarge: a volume does not fit into its share of the instance's memory.
	// Mend: give the instances a larger --memory, or keep less in the volume.
	RuleVolumeTooLarge problem.Rule = "volume_too_large"
)
