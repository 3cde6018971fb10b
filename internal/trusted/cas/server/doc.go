// Package server is the CAS's transport: the owners' API and the instances' API
// over TLS 1.3 and HTTP/1.1, and the limits that keep strangers from exhausting
// it. Every decision is the cas package's.
//
// It trusts nothing that arrives. Connections, bodies, headers and times are
// bounded; where places are scarce, connections that idle or dawdle make room.
// Handlers run concurrently and share nothing but the CAS.
//
// Read server.go (both listeners, and how anything is answered), owners.go and
// grants.go (the owners' API), then instances.go with fast.go (the instances').
package server
