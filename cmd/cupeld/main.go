// Command cupeld is the operator's daemon: manager, node, LAS and registry in
// one process, which starts the CAS and a private containerd as others.
package main

import (
	"context"
	"os"

	"cupel.dev/cupel/internal/operator/daemon"
)

func main() {
	caller := daemon.Caller{
		In:  os.Stdin,
		Out: os.Stdout,
		Err: os.Stderr,
		Env: os.Getenv,
	}

	// No context of signals: Main handles them itself.
	os.Exit(daemon.Main(context.Background(), os.Args[1:], caller))
}
