package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/wording"
)

func newSessionRefusalsCommand(g *globals) *cobra.Command {
	var cas string
	c := &cobra.Command{
		Use:   "refusals NAME",
		Short: "List the releases of a session that its CAS refused",
		Long: `Lists which releases of the session's services the CAS refused and why, the latest
first: code that isn't the session's, copies without a grant, evidence of another
platform. Equal ones are counted together, the latest 100 are kept. What an
instance only had to wait for, such as a free place, is not among them.`,
		Example:           `  cupel session refusals my-app`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: g.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSessionRefusals(cmd.Context(), g, args[0], cas)
		},
	}

	c.Flags().StringVar(&cas, "cas", "", "address of the CAS (default: where you created the session)")
	return c
}

type refusalsReply struct {
	Session  ident.SessionName `json:"session"`
	Refusals []owners.Refusal  `json:"refusals"`
}

func runSessionRefusals(ctx context.Context, g *globals, arg, cas string) error {
	name, c, err := g.sessionAt(ctx, arg, cas)
	if err != nil {
		return err
	}
	defer c.Close()

	list, err := c.Refusals(ctx, name)
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(refusalsReply{name, append([]owners.Refusal{}, list...)})
	}
	if len(list) == 0 {
		g.printf("The CAS refused no release of session %s.\n", name)
		return nil
	}

	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{
			r.Last.Local().Format(time.DateTime), strconv.Itoa(r.Count), string(r.Service), string(r.Rule), wording.Met(r.Rule, r.Actual), r.Expected,
		})
	}
	return g.table([]string{"LAST", "COUNT", "SERVICE", "RULE", "ACTUAL", "EXPECTED"}, rows)
}
