package cli

import (
	"context"
	"errors"
	"net"
	"slices"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

func newProviderCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "provider",
		Short: "The operators of other machines that you talked to",
		Long: `With --provider commands talk to the operator of another machine. What showed itself
there first is kept, and nobody else is taken for it.`,
		Example: "  cupel provider list\n  cupel provider forget provider.example.org",
	}
	c.AddCommand(newProviderListCommand(g), newProviderForgetCommand(g))
	return c
}

func newProviderListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the providers that are known here, and by what",
		Example: "  cupel provider list -o json",
		Args:    exactArgs(),
		RunE:    func(*cobra.Command, []string) error { return runProviderList(g) },
	}
}

func runProviderList(g *globals) error {
	dir, err := g.ownerDir()
	if err != nil {
		return err
	}

	known, err := dir.Providers()
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(known)
	}

	var rows [][]string
	for _, addr := range sortedKeys(known) {
		p := known[addr]
		rows = append(rows, []string{addr, certificateText(p.Certificate), p.OperatorKey.String(), g.age(p.Since)})
	}
	return g.table([]string{"ADDRESS", "CERTIFICATE", "OPERATOR'S KEY", "SINCE"}, rows)
}

func newProviderForgetCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "forget ADDRESS",
		Short: "Forget a provider that changed for a reason that you know",
		Long: `Forgets certificate and operator's key of a provider: the next command that talks
to it keeps what it shows then. Do this only when its operator told you why they
changed, over another road than this address.`,
		Example:           "  cupel provider forget provider.example.org",
		Args:              exactArgs("ADDRESS"),
		ValidArgsFunction: g.completeProviders,
		RunE:              func(c *cobra.Command, args []string) error { return runProviderForget(c.Context(), g, args[0]) },
	}
}

// errUnknownProvider ends a change that would change nothing.
var errUnknownProvider = errors.New("not known")

func runProviderForget(ctx context.Context, g *globals, text string) error {
	addr, err := providerAddress(text)
	if err != nil {
		return err
	}
	dir, err := g.ownerDir()
	if err != nil {
		return err
	}

	var was home.Provider
	near := ""
	err = dir.UpdateProviders(ctx, func(all home.Providers) error {
		first, known := all[addr]
		if !known {
			near = sameHost(addr, sortedKeys(all))
			return errUnknownProvider
		}
		was = first
		delete(all, addr)
		return nil
	})

	if errors.Is(err, errUnknownProvider) && near != "" {
		return problem.New(problem.NotFound, ruleProvider, "no provider at %s is known here", addr).Fix("did you mean cupel provider forget %s? See 'cupel provider list'", near)
	}
	if errors.Is(err, errUnknownProvider) {
		return problem.New(problem.NotFound, ruleProvider, "no provider at %s is known here", addr).Fix("see 'cupel provider list'")
	}
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(home.Providers{addr: was})
	}

	g.printf("%s is forgotten; the next command that talks to it keeps what it shows then.\n", addr)
	return nil
}

// sameHost is the first known address of the same host, or else one that is nearly the same.
func sameHost(addr string, known []string) string {
	host, _, _ := net.SplitHostPort(addr) // providerAddress made it
	for _, k := range known {
		if other, _, err := net.SplitHostPort(k); err == nil && other == host {
			return k
		}
	}
	return problem.Nearest(addr, known)
}

// completeProviders offers the providers that are known.
func (g *globals) completeProviders(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	g.completing = true
	dir, err := g.ownerDir()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}

	known, err := dir.Providers()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}

	addresses := slices.DeleteFunc(sortedKeys(known), func(addr string) bool {
		whole, err := providerAddress(addr)
		return err != nil || whole != addr
	})
	return clean(addresses), cobra.ShellCompDirectiveNoFileComp
}
