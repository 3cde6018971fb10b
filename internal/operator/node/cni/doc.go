// Package cni gives instances addresses: a network namespace each, connected to
// one bridge of this node by the machine's CNI plugins.
//
// It owns the bridge, the namespaces' mounts, the folder of leases and the
// choice of the subnet: one that was asked for, or a free /24, chosen once and
// kept as long as nothing else of the machine lies there. It
// masquerades nothing and filters nothing; the balancer's table does.
//
// It trusts the plugins and the kernel. What other programs of the machine do to the
// bridge, to its links and to the kernel's settings it finds again and mends (Restore).
//
// Network is safe for concurrent use; the plugins lock their leases.
//
// Read cni.go first (Open, Add, Remove), then subnet.go for where the addresses come from
// and reconnect.go for how links that were lost come back. leases.go, exec.go and
// hardwareaddr.go are about the plugins' files, processes and a trait of bridges.
package cni
