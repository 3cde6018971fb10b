package cli

import (
	"context"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

func newVolumeCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "volume",
		Short: "What a session's instances keep, encrypted",
		Long: `A volume is an encrypted folder that outlives instances. Its key is the session's, at
the CAS; its operator stores ciphertext.`,
		Example: "  cupel volume reset my-app genesis --yes    # owner\n  cupel volume ls                            # operator",
	}
	c.AddCommand(newVolumeResetCommand(g), newVolumeLsCommand(g), newVolumeRmCommand(g))
	return c
}

type volumeResetOptions struct {
	session string
	volume  string
	cas     string
	yes     bool
}

func newVolumeResetCommand(g *globals) *cobra.Command {
	var o volumeResetOptions
	c := &cobra.Command{
		Use:   "reset SESSION VOLUME",
		Short: "Start a volume afresh: what is in it is lost",
		Long: `Makes the CAS forget a volume's key, and with it everything that was sealed under
it: the volume begins anew, empty, with another id and another key. Nobody can
undo this. It needs the right to update the session, and is refused while an
instance has the lease on the volume, that is while one writes it.

Instances that read a private copy go on with that until they are replaced. A
volume with a repository (genesis, by default) is filled by the next deployment.`,
		Example: `  cupel volume reset my-app genesis --yes
  cupel deploy my-app`,
		Args:              exactArgs("SESSION", "VOLUME"),
		ValidArgsFunction: g.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.session, o.volume = args[0], args[1]
			return runVolumeReset(cmd.Context(), g, o)
		},
	}

	f := c.Flags()
	f.BoolVar(&o.yes, "yes", false, "yes, what is in the volume may be lost")
	f.StringVar(&o.cas, "cas", "", "address of the CAS (default: where you created the session)")
	return c
}

func runVolumeReset(ctx context.Context, g *globals, o volumeResetOptions) error {
	name, err := parseSessionArg(o.session)
	if err != nil {
		return err
	}
	if !o.yes {
		return problem.New(problem.Invalid, problem.RuleNotConfirmed, "what is in volume %s of session %s would be lost, and nobody could undo that", o.volume, name).
			Want("--yes").
			Fix("cupel volume reset %s %s --yes", name, o.volume)
	}

	_, c, err := g.sessionAt(ctx, o.session, o.cas)
	if err != nil {
		return err
	}
	defer c.Close()

	reset, err := lasting(ctx, g, "cupel audit verify --show", func(ctx context.Context) (owners.VolumeReset, error) {
		return c.ResetVolume(ctx, name, ident.VolumeName(o.volume))
	})
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(reset)
	}

	g.printf("volume %s of session %s starts afresh; what it held, generation %d, is lost with its key\n", reset.Volume, reset.Session, reset.Was)
	g.printf("instances that start now find it empty; if it holds the app's repository, fill it: cupel deploy %s\n", reset.Session)
	return nil
}
