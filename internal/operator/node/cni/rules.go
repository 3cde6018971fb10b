package cni

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleAddressesUsed problem.Rule = "addresses_used"
	ruleCNIMissing    problem.Rule = "cni_missing"
	ruleNetwork       problem.Rule = "network"
	ruleNoSubnet      problem.Rule = "no_subnet"
	ruleSubnet        problem.Rule = "subnet"
	ruleSubnetInUse   problem.Rule = "subnet_in_use"
	ruleSubnetTaken   problem.Rule = "subnet_taken"
)
