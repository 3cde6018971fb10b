package cgroup

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleControlGroups: this process doesn't see the machine's control groups, mostly as it was started in a mount namespace
	// with a /sys of its own. Mend: use nsenter --net= where 'ip netns exec' started it; else mount them there.
	ruleControlGroups problem.Rule = "control_groups"
)
