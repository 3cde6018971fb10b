package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
)

func newAuditCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:     "audit",
		Short:   "Check what the CAS wrote down",
		Long:    "The CAS writes down everything that it decides, in a chain that it signs.",
		Example: "  cupel audit verify --show",
	}
	c.AddCommand(newAuditVerifyCommand(g))
	return c
}

type auditVerifyOptions struct {
	cas   string
	since string
	show  bool
}

func newAuditVerifyCommand(g *globals) *cobra.Command {
	var o auditVerifyOptions
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check that the CAS's audit log is unbroken",
		Long: `Reads the audit log and checks its hash chain up to the signed end. Without
--since from the beginning; with it from a head that was kept before, which
proves that nothing seen since then was taken back. The head that this owner's
commands keep is checked every time.`,
		Example: `  cupel audit verify
  cupel audit verify --since kept --show
  cupel audit verify --since @head.txt`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAuditVerify(cmd.Context(), g, o) },
	}

	f := c.Flags()
	f.StringVar(&o.cas, "cas", "", "address of the CAS (default: the one attested last)")
	f.StringVar(&o.since, "since", "", "head to start from: as printed, @FILE, or kept")
	f.BoolVar(&o.show, "show", false, "print the entries")
	return c
}

// parseHead reads a head as it is printed.
func parseHead(ctx context.Context, s string) (owners.SignedHead, error) {
	var h owners.SignedHead
	if name, ok := strings.CutPrefix(s, "@"); ok {
		b, err := readSmall(ctx, name, maxValue)
		if err != nil {
			p := *problem.From(err)
			return h, p.Want("a file with a head as `cupel audit verify` prints it")
		}
		s = strings.TrimSpace(string(b))
	}

	b, err := base64.StdEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &h)
	}

	if err != nil || h.Seq == 0 {
		return h, problem.New(problem.Invalid, problem.RuleUsage, "--since is no audit head").Want("a head as `cupel audit verify` prints it, @FILE with one, or kept")
	}
	return h, nil
}

type auditVerifyReply struct {
	client.LogCheck
	Head   string         `json:"audit_head"`
	Listed []owners.Entry `json:"log,omitempty"`
}

func runAuditVerify(ctx context.Context, g *globals, o auditVerifyOptions) error {
	side, err := g.ownerSide(ctx)
	if err != nil {
		return err
	}

	c, pin, err := side.cas(ctx, o.cas)
	if err != nil {
		return err
	}
	defer c.Close()

	var since *owners.SignedHead
	switch o.since {
	case "":
	case "kept":
		since = &pin.Head
	default:
		h, err := parseHead(ctx, o.since)
		if err != nil {
			return err
		}
		since = &h
	}

	var reply auditVerifyReply
	each := func(e owners.Entry) error {
		if o.show {
			reply.Listed = append(reply.Listed, e)
		}
		return nil
	}

	if reply.LogCheck, err = c.VerifyLog(ctx, since, each); err != nil {
		return err
	}
	reply.Head = owners.EncodeHead(reply.To)

	if g.json() {
		return g.printJSON(reply)
	}

	if len(reply.Listed) > 0 {
		if err := printEntries(g, reply.Listed); err != nil {
			return err
		}
	}

	from := "the beginning"
	if since != nil {
		from = fmt.Sprintf("entry %d", since.Seq)
	}

	entries := fmt.Sprintf("%d entries", reply.Entries)
	if reply.Entries == 1 {
		entries = "1 entry"
	}

	g.printf("unbroken: %s from %s to entry %d, signed %s\nhead: %s\n", entries, from, reply.To.Seq,
		time.Unix(0, reply.To.Time).UTC().Format(time.RFC3339), reply.Head)
	return nil
}

func printEntries(g *globals, entries []owners.Entry) error {
	var rows [][]string
	for _, e := range entries {
		actor := "the CAS"
		if !e.Actor.IsZero() {
			actor = e.Actor.Short()
		}

		var detail []string
		for _, k := range sortedKeys(e.Detail) {
			detail = append(detail, k+"="+e.Detail[k])
		}

		rows = append(rows, []string{fmt.Sprint(e.Seq), time.Unix(0, e.Time).UTC().Format(time.RFC3339), string(e.Event), actor, string(e.Session), strings.Join(detail, " ")})
	}
	return g.table([]string{"ENTRY", "TIME", "EVENT", "ACTOR", "SESSION", "DETAIL"}, rows)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
