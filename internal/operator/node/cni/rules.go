package cni

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleAddressesUsed: every address of the instances' network is taken by an instance that runs. Mend: run fewer
	// instances, or run some on another machine.
	ruleAddressesUsed problem.Rule = "addresses_used"

	// ruleCNIMissing: a CNI plugin that connects instances is not installed. Mend: install the package
	// containernetworking-plugins.
	ruleCNIMissing problem.Rule = "cni_missing"

	// ruleNetwork: the CNI plugins failed to connect an instance. Mend: look at the machine's network (ip link, ip route).
	ruleNetwork problem.Rule = "network"

	// ruleNoSubnet: the machine's own networks take all private ones that instances are given by default. Mend: name a
	// private network that nobody has: cupel up --subnet 100.64.7.0/24.
	ruleNoSubnet problem.Rule = "no_subnet"

	// ruleSubnet: the network given with --subnet is none that instances can have, or none was chosen yet. Mend: give a
	// private IPv4 network of a fitting size by its first address, as in --subnet 10.88.7.0/24; or run cupel up.
	ruleSubnet problem.Rule = "subnet"

	// ruleSubnetInUse: another network was asked for while apps run in the present one. Mend: cupel down, then cupel up
	// with the new --subnet.
	ruleSubnetInUse problem.Rule = "subnet_in_use"

	// ruleSubnetTaken: the network that was asked for overlaps one that this machine reaches. Mend: choose another with
	// --subnet, or leave --subnet out.
	ruleSubnetTaken problem.Rule = "subnet_taken"
)
