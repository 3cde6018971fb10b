// Package netcheck finds out whether this machine lets through what instances
// and their users need, and names what doesn't: a firewall of whatever kind, or a
// setting of the kernel.
//
// It belongs to the operator and nobody has to trust it; itself it trusts the kernel, and
// what nft, iptables and the machine's own files print. It tries instead of reading rules:
// a throw-away network namespace on the instances' bridge stands for an instance, another
// one for the world outside. The latter is put behind the device by which the machine's own
// rules and routes lead to the world: what it sends arrives there (tc's mirred), and what
// goes there leads to it (nftables' fwd), so that rules which name the device judge the
// same as always. Nothing of it leaves the machine, but for the calls of a Target. What
// fails is tried once more while the kernel traces it, which shows the rule that ended it.
//
// A Report is for people; nothing is refused because of one.
//
// # Concurrency
//
// One check of an installation runs at a time: callers see to that. In it all probes are
// tried at once; what failed is explained one after the other. Each namespace is held by a
// thread of its own, which runs what is called in it.
//
// # Where to read
//
// check.go has what callers see, and Run. lab.go, space.go, behind.go and road.go build the
// two namespaces and the way between them; table.go writes the check's own rules, and
// listen.go what the probes call. probe.go lists the probes. What failed goes to cause.go:
// it asks trace.go (nftables), legacy.go (iptables-legacy), setting.go (the kernel's
// settings), route.go and inside.go (routes). stop.go and mend.go write the commands that let
// it through; allowed.go, allowed_addresses.go and clients.go find out whether somebody
// wants it stopped.
package netcheck
