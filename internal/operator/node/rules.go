package node

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// RuleContainerdHangs: containerd left a call of the node's without an answer. Mend: see what holds it
	// (containerd's log, the disk, a runc or shim that hangs) or kill it: cupeld starts it again, and apps go on.
	RuleContainerdHangs problem.Rule = "containerd_hangs"

	// ruleGeneration: a launcher asked the node for a volume without naming one of its generations. Mend: use a launcher
	// and a cupeld of the same release.
	ruleGeneration problem.Rule = "generation"

	// ruleInstanceID: an instance was to be started under an id that the node can't use. Mend: choose 1 to 40 of a-z 0-9 -.
	ruleInstanceID problem.Rule = "instance_id"

	// ruleInstanceLeftover: what an earlier start of the instance left is not removed yet. Mend: see 'cupel events' for
	// what holds it; the node tries again by itself.
	ruleInstanceLeftover problem.Rule = "instance_leftover"

	// ruleNetworkHangs: the CNI plugins did not connect or disconnect an instance in time. Mend: see what holds them, as
	// a lock below cni/ in the state folder.
	ruleNetworkHangs problem.Rule = "network_hangs"

	// ruleStartSlow: runc needs much longer to create a container than it does as a rule. Mend: wait, since it is tried
	// again by itself, or see what holds runc: a signal that stopped it, the disk, the machine's load.
	ruleStartSlow problem.Rule = "start_slow"

	// ruleStatus: a launcher's report is not one that this node understands. Mend: use a launcher and a cupeld of the
	// same release.
	ruleStatus problem.Rule = "status"

	// ruleStopTimeout: an instance did not end although it was killed. Mend: look at the node's containerd log, then
	// remove the instance.
	ruleStopTimeout problem.Rule = "stop_timeout"

	// ruleVolumeDamaged: the node's copy of a volume's snapshot is damaged, and the registry's can't take its place. Mend: look
	// at the disk and the registry, and put one of them back from a backup; else the owner starts the volume afresh.
	ruleVolumeDamaged problem.Rule = "volume_damaged"
)
