// Command cupeld is the operator's daemon: manager, node, LAS and registry in
// one process, which starts the CAS and a private containerd as others.
package main

import (
	"context"
	"os"

	"cupel.dev/cupel/internal/operator/daemon"
)

func main() {
	os.Exit(daemon.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}
