package cgroup

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleControlGroups problem.Rule = "control_groups"
)
