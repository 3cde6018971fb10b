// Command cupel is the owner's, the operator's and the user's command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"cupel.dev/cupel/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], cli.Process{
		In:  os.Stdin,
		Out: os.Stdout,
		Err: os.Stderr,
		Env: os.Getenv,
	})
	stop()
	os.Exit(code)
}
