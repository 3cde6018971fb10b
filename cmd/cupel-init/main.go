// Command cupel-init is the launcher: PID 1 of every instance. Static, the
// standard library and golang.org/x/sys only; its digest is part of every
// measurement. See internal/trusted/instance/launcher.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"

	"cupel.dev/cupel/internal/trusted/instance/launcher"
	"cupel.dev/cupel/internal/trusted/sealed"
	"cupel.dev/cupel/internal/trusted/wire"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		args = []string{"help"}
	}

	switch args[0] {
	case "run":
		return launcher.Run(ctx, args[1:], environ, stderr)
	case "stage2":
		return launcher.Stage2()
	case "stage3":
		return launcher.Stage3()
	case "version":
		printVersion(stdout)
		return 0
	}

	fmt.Fprintln(stderr, "cupel-init: arguments: want run or version; instances are started by their node")
	return 2
}

func printVersion(w io.Writer) {
	fmt.Fprintf(w, "cupel-init, release protocol %d, snapshot format %d, %s %s/%s\n",
		wire.ReleaseVersion, sealed.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
