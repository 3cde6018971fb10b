// Command cupel-log writes one instance's output into its log. The instance's shim
// starts one for each, and it outlives cupeld: so it is a small program of its own.
package main

import (
	"fmt"
	"os"

	"cupel.dev/cupel/internal/operator/node/logfile"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != logfile.Verb {
		fmt.Fprintln(os.Stderr, "cupel-log: started by cupeld and by an instance's shim, with the instance's output: nothing to be run by hand")
		os.Exit(2)
	}

	if err := logfile.Main(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "cupel-log:", err)
		os.Exit(1)
	}
}
