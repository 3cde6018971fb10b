package cli

import (
	"cmp"
	"runtime"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/internal/version"
)

type versionReply struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	CAS     string `json:"cas_measurement,omitempty"`
	Init    string `json:"launcher_digest,omitempty"`
}

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show this build's version and what it expects",
		Example: "  cupel version -o json",
		Args:    exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			return runVersion(g)
		},
	}
}

func runVersion(g *globals) error {
	r := versionReply{Version: version.Release(), Go: runtime.Version()}
	if m, ok := version.CAS(); ok {
		r.CAS = m.String()
	}
	if d, ok := version.Launcher(); ok {
		r.Init = d.String()
	}

	if g.json() {
		return g.printJSON(r)
	}
	return g.table([]string{"PART", "VALUE"}, [][]string{
		{"cupel", r.Version},
		{"go", r.Go},
		{"cupel-cas (expected measurement)", cmp.Or(r.CAS, "none: built without `make build`")},
		{"cupel-init (digest)", cmp.Or(r.Init, "none: built without `make build`")},
	})
}
