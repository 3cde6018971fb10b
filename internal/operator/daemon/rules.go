package daemon

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleCASConnections    problem.Rule = "cas_connections"
	ruleCASMissing        problem.Rule = "cas_missing"
	ruleCASStart          problem.Rule = "cas_start"
	ruleClockNotSet       problem.Rule = "clock_not_set"
	ruleCupeldEnded       problem.Rule = "cupeld_ended"
	ruleDeployKeys        problem.Rule = "deploy_keys"
	ruleDeployKeysNotKept problem.Rule = "deploy_keys_not_kept"
	ruleDownUnsafe        problem.Rule = "down_unsafe"
	ruleDrain             problem.Rule = "drain"
	ruleFirstPort         problem.Rule = "first_port"
	ruleGrace             problem.Rule = "grace"
	ruleKeepAlive         problem.Rule = "keep_alive"
	ruleKernel            problem.Rule = "kernel"
	ruleListen            problem.Rule = "listen"
	ruleManagerCert       problem.Rule = "manager_cert"
	ruleMinFree           problem.Rule = "min_free"
	ruleNetworkUnchecked  problem.Rule = "network_unchecked"
	ruleNoSystemd         problem.Rule = "no_systemd"
	ruleNotReady          problem.Rule = "not_ready"
	ruleOvercommit        problem.Rule = "overcommit"
	ruleRoot              problem.Rule = "root"
	ruleStateMissing      problem.Rule = "state_missing"
	ruleStateOwner        problem.Rule = "state_owner"
	ruleStateUnreachable  problem.Rule = "state_unreachable"
	ruleTo                problem.Rule = "to"
)
