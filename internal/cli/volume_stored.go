package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

func newVolumeLsCommand(g *globals) *cobra.Command {
	as := managerAs{g: g}
	c := &cobra.Command{
		Use:   "ls",
		Short: "List what is stored of volumes on the operator's disk",
		Long: `Lists the ciphertext that is stored of volumes, as their operator sees it: ids and
sizes, and which apps used it. It stays when its app is removed, until
'cupel volume rm'.`,
		Example: "  cupel volume ls",
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return runVolumeLs(c.Context(), g, as) },
	}
	as.flags(c)
	return c
}

func runVolumeLs(ctx context.Context, g *globals, as managerAs) error {
	m, _, err := as.dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()

	list, err := m.Volumes(ctx)
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(manager.VolumeList{Version: manager.Version, Volumes: list})
	}
	if len(list) == 0 {
		g.printf("no volume is stored\n")
		return nil
	}

	var rows [][]string
	for _, v := range list {
		rows = append(rows, []string{v.ID.String(), strconv.FormatUint(v.Generation, 10), manager.FormatMemory(uint64(v.Size)), g.age(v.Used), usersCell(v)})
	}
	return g.table([]string{"VOLUME", "GENERATION", "SIZE", "USED", "APP"}, rows)
}

func usersCell(v manager.Volume) string {
	switch {
	case len(v.Apps) > 0:
		return strings.Join(v.Apps, ", ")
	case len(v.Before) > 0:
		return "none (was " + strings.Join(v.Before, ", ") + ")"
	}
	return "unknown"
}

type volumeRmOptions struct {
	managerAs
	yes   bool
	force bool
}

func newVolumeRmCommand(g *globals) *cobra.Command {
	o := volumeRmOptions{managerAs: managerAs{g: g}}
	c := &cobra.Command{
		Use:   "rm VOLUME...",
		Short: "Remove what is stored of volumes that no app has",
		Long: `Removes the ciphertext of volumes from the operator's disk and registry, by their ids
as 'cupel volume ls' shows them. Refused while an app has the volume
(volume_in_use). There is no way back: if its session is deployed again, its owner
has to have the volume start afresh first ('cupel volume reset').`,
		Example: "  cupel volume rm 5f2c0e9f6a1d4b7c8e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d --yes",
		Args:    exactArgs("VOLUME..."),
		RunE:    func(c *cobra.Command, args []string) error { return runVolumeRm(c.Context(), g, o, args) },
	}

	o.flags(c)
	c.Flags().BoolVar(&o.yes, "yes", false, "yes, what is in the volumes may be lost")
	c.Flags().BoolVar(&o.force, "force", false, "also a volume of which it isn't known whose it was")
	return c
}

func runVolumeRm(ctx context.Context, g *globals, o volumeRmOptions, args []string) error {
	var ids []ident.Digest
	for _, arg := range args {
		id, err := ident.ParseDigest(arg)
		if err != nil {
			return problem.New(problem.Invalid, problem.RuleVolumeID, "volume %.80q: %w", arg, err).Fix("give its whole id, as 'cupel volume ls' shows it")
		}
		ids = append(ids, id)
	}

	if !o.yes {
		return problem.New(problem.Invalid, problem.RuleNotConfirmed, "what is in %s would be lost, and nobody could undo that", problem.Count(len(ids), "volume")).
			Want("--yes").
			Fix("cupel volume rm %s --yes", strings.Join(args, " "))
	}

	m, _, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()

	removed := []manager.Volume{}
	for _, id := range ids {
		var v manager.Volume
		if v, err = lasting(ctx, g, "cupel volume ls", func(ctx context.Context) (manager.Volume, error) { return m.RemoveVolume(ctx, id, o.force) }); err != nil {
			break
		}

		removed = append(removed, v)
		if !g.json() {
			g.printf("volume %s is gone: %s are free, those in the registry within some minutes\n", id, manager.FormatMemory(uint64(v.Size)))
		}
	}

	if g.json() && (err == nil || len(removed) > 0) {
		if perr := g.printJSON(manager.VolumeList{Version: manager.Version, Volumes: removed}); err == nil {
			err = perr
		}
	}
	return err
}
