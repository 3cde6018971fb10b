package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
)

type rotateOptions struct {
	session string
	secrets []string
	volumes []string
	cas     string
}

func newSessionRotateCommand(g *globals) *cobra.Command {
	var o rotateOptions
	c := &cobra.Command{
		Use:   "rotate NAME [SECRET...]",
		Short: "Make fresh values of generated secrets, and fresh volume keys",
		Long: `The next release of a service makes a fresh value of each named secret; instances
that run keep what they have, and are listed until they ended: replace them with
'cupel deploy'. Certificates under a rotated key are issued again: an app that takes
renewed ones (on_renewal) gets its own at half of its life at the latest. A
certificate authority is rotated only when it is named itself, its key with it, since
users have pinned it: deploy right after, so that all instances change at once, and
tell who pinned it; what is published (session values) changes with the first release
under the new one. Values that you gave are changed by an update of the session.

With --volume the volume's next commit is sealed under a fresh key, and with it
the CAS forgets the one before.

Without a secret and a volume it shows what was rotated, and who has what was
before.`,
		Example: `  cupel session rotate my-app db_password
  cupel session rotate my-app --volume data
  cupel session rotate my-app`,
		Args:              exactArgs("NAME", "[SECRET...]"),
		ValidArgsFunction: g.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.session, o.secrets = args[0], args[1:]
			return runSessionRotate(cmd.Context(), g, o)
		},
	}

	c.Flags().StringSliceVar(&o.volumes, "volume", nil, "give this volume a fresh key; repeatable")
	c.Flags().StringVar(&o.cas, "cas", "", "address of the CAS (default: where you created the session)")
	return c
}

type rotateReply struct {
	Session ident.SessionName `json:"session"`
	Secrets []owners.Rotation `json:"secrets"`
	Volumes []owners.Rotation `json:"volumes"`
}

func runSessionRotate(ctx context.Context, g *globals, o rotateOptions) error {
	name, c, err := g.sessionAt(ctx, o.session, o.cas)
	if err != nil {
		return err
	}
	defer c.Close()

	var out owners.Rotations
	if len(o.secrets)+len(o.volumes) == 0 {
		out, err = c.Rotations(ctx, name)
	} else {
		out, err = lasting(ctx, g, "cupel session rotate "+string(name), func(ctx context.Context) (owners.Rotations, error) {
			return c.Rotate(ctx, owners.Rotate{Session: name, Secrets: o.secrets, Volumes: o.volumes})
		})
	}
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(rotateReply{name, out.Secrets, out.Volumes})
	}
	return g.printRotations(name, out)
}

func (g *globals) printRotations(name ident.SessionName, out owners.Rotations) error {
	var rows [][]string
	stale := 0

	add := func(kind, next string, list []owners.Rotation) {
		for _, r := range list {
			state := "in use"
			if r.Pending {
				state = "with the next " + next
			}

			stale += len(r.Old)
			rows = append(rows, []string{kind, r.Name, r.Rotated.Local().Format(time.DateTime), state, strconv.Itoa(len(r.Old))})
		}
	}
	add("secret", "release", out.Secrets)
	add("volume", "commit", out.Volumes)

	if len(rows) == 0 {
		g.printf("Nothing of session %s was rotated.\n", name)
		return nil
	}
	if err := g.table([]string{"KIND", "NAME", "ROTATED", "FRESH", "ON THE OLD ONE"}, rows); err != nil {
		return err
	}

	if stale > 0 {
		g.printf("\nInstances that have an old one keep it until they end, or renew a certificate of it: replace them with 'cupel deploy'.\n")
	}
	return nil
}
