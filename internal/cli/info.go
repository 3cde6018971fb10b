package cli

import (
	"cmp"
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
)

func newInfoCommand(g *globals) *cobra.Command {
	as := managerAs{g: g}
	c := &cobra.Command{
		Use:     "info",
		Short:   "Show what runs where, on this machine or a provider's",
		Example: "  cupel info\n  cupel info --provider https://provider.example.org",
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return runInfo(c.Context(), g, as) },
	}
	as.flags(c)
	return c
}

// infoReply is the answer of `info -o json`.
type infoReply struct {
	manager.Info

	Certificate *ident.Digest `json:"certificate,omitempty"` // that the manager is known by; without one a public authority vouches for it
}

func runInfo(ctx context.Context, g *globals, as managerAs) error {
	m, at, err := as.dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	info, err := m.Info(ctx)
	if err != nil {
		return err
	}

	at.seenFromHere(&info)
	if g.json() {
		return g.printJSON(infoReply{info, at.pinned()})
	}

	rows := [][]string{
		{"release", info.Release, "-", ""},
		{"backend", info.Backend, "-", ""},
		{"operator's key", info.OperatorKey.String(), "-", "claims grants"},
		{"certificate", at.certificate(), "-", "of the manager API"},
	}
	for _, p := range info.Parts {
		pid := "-"
		if p.PID != 0 {
			pid = strconv.Itoa(p.PID)
		}
		rows = append(rows, []string{p.Name, cmp.Or(p.Address, "-"), pid, p.Note})
	}

	if err := g.table([]string{"PART", "WHERE", "PROCESS", ""}, rows); err != nil {
		return err
	}

	if info.Simulation != nil {
		g.printf("\nSIMULATION: no TEE protects anything here. Root certificate's SHA-256: %s\n", info.Simulation)
	}
	return nil
}
