// Package balance carries connections from public TCP ports to instances, and
// keeps every client with its instance: it is the manager's Balancer for one
// node.
//
// It belongs to the operator and nobody has to trust it: it moves ciphertext
// between a client and an instance whose certificate the client checks. It trusts
// the manager that says where instances are, and the kernel; clients it trusts with
// nothing, not even with the addresses in whose name they ask to connect.
//
// # Two paths, one table
//
// IPv4 from outside is translated by the kernel. The package owns one nftables
// table (Config.Table, family inet, without the owner flag) in which
//
//   - chain prerouting sends connections to a local address and a public port
//     (`fib daddr type local`, never what arrives on lo) by the map ports to
//     chain svc_PORT;
//   - chain svc_PORT looks the client's address up in the sets of the port's
//     endpoints, and deals unknown clients out in turn (numgen);
//   - chain ep_PORT_X notes the client as a newcomer of X, for half a minute, and
//     translates to the instance;
//   - chain forward sees what clients send on connections that both ends have
//     answered on (the map seen leads to chain seen_PORT), and writes the client
//     into X's set, which also refreshes its age. Who only sends SYNs, in anybody's
//     name, never gets there, and takes nobody's place;
//   - chain postrouting masquerades what leaves the instances' subnet, and
//     what an instance sends to an instance through a public port: answered
//     directly over the bridge, it would come from an address that the client
//     never called. This does not depend on br_netfilter.
//
// Everything else (127.0.0.1, the machine's own addresses, IPv6) arrives at a
// listener that this process holds on every public port. It proxies to the
// endpoint that the same sets name, and writes them by netlink. The bound port
// is also how "port taken" is noticed.
//
// Sets live in the kernel: a client's instance outlives this process, and
// while it is away IPv4 from outside goes on. Removing an endpoint deletes its
// sets, so exactly its clients are dealt out anew. Sets are bounded in size
// and age (Config.MaxClients, Config.ClientIdle); clients beyond the bound are
// served, without stickiness.
//
// Only what changed is written, each frontend in one transaction, and many
// frontends in transactions of some hundred messages. Restore finds what another
// program took away and writes it anew.
//
// # Flows of endpoints that left
//
// An endpoint that leaves gets no new connections at once. As long as its
// instance is listed as leaving, the connections that it has go on and are
// counted (Connections), so that whoever is about to stop it can wait for
// requests under way. Those of one that just vanishes go on for
// Config.DrainAfter; then their conntrack entries are deleted (and proxied connections
// closed), so that clients of a dead instance notice and come back. That is
// repeated until nothing comes back to life: see endedFlows.
//
// # What it needs from the machine
//
// net.ipv4.ip_forward, and a forward path that accepts: a chain of another table
// that drops (a host firewall's, Docker's) drops whatever we accept. Package
// netcheck finds those.
//
// # Concurrency
//
// Methods of Balancer are safe for concurrent use. One mutex orders Apply,
// Close and Remove; another, held for short sections only,
// guards the affinity cache that proxied connections read. The kernel is the
// truth for its own path; for clients of the listener this process is the only
// writer and caches what it wrote. The places of proxied connections (flows) have a
// lock of their own, under which nothing waits.
//
// # Where to read
//
// balance.go is the Balancer, from Open to Remove. frontend.go checks what it is told
// to serve. kernel.go reads the table and program.go writes it; restore.go writes what
// others took away, and conntrack.go ends connections that were translated. listener.go
// proxies the rest, affinity.go says where to, flows.go how many at once, and limits.go
// what the operator may set. holder.go finds who else has a port.
package balance
