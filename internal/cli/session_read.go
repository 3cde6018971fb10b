package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
)

func parseSessionArg(s string) (ident.SessionName, error) {
	name, err := ident.ParseSessionName(s)
	if err != nil {
		p := problem.New(problem.Invalid, problem.RuleSessionName, "%w", err).Fix("give the name under which the session was created")
		bare := strings.Trim(strings.TrimSpace(s), "/")
		if _, err := ident.ParseSessionName(bare); err == nil { // it isn't repeated: a secret may stand there by mistake
			p.Fix("leave out the blanks and slashes at its beginning and end")
		}

		return "", p
	}
	return name, nil
}

type readOptions struct {
	session string
	cas     string
	hash    string // of an earlier version
	reveal  bool   // secret values, too
}

func newSessionReadCommand(g *globals) *cobra.Command {
	var o readOptions
	c := &cobra.Command{
		Use:               "read NAME",
		Short:             "Show a session as the CAS keeps it",
		Example:           `  cupel session read my-app`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: g.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.session = args[0]
			return runSessionRead(cmd.Context(), g, o)
		},
	}

	f := c.Flags()
	f.StringVar(&o.cas, "cas", "", "address of the CAS (default: where you created the session)")
	f.StringVar(&o.hash, "hash", "", "an earlier version")
	f.BoolVar(&o.reveal, "show-secrets", false, "also show the secret values that were given")

	return c
}

type readReply struct {
	Session ident.SessionName `json:"session"`
	Hash    ident.Digest      `json:"hash"`
	Text    string            `json:"text"`
}

func runSessionRead(ctx context.Context, g *globals, o readOptions) error {
	var version *ident.Digest
	if o.hash != "" {
		h, err := ident.ParseDigest(o.hash)
		if err != nil {
			return problem.New(problem.Invalid, problem.RuleUsage, "--hash: %w", err)
		}
		version = &h
	}

	name, c, err := g.sessionAt(ctx, o.session, o.cas)
	if err != nil {
		return err
	}
	defer c.Close()

	got, err := c.ReadSession(ctx, name, version)
	if err != nil {
		return err
	}

	text := got.Text
	if !o.reveal {
		parsed, err := session.Parse([]byte(got.Text))
		if err != nil {
			return err
		}
		text = string(parsed.Redacted())
	}

	if g.json() {
		return g.printJSON(readReply{name, got.Hash, text})
	}
	return g.printDocument(text)
}

func newSessionVerifyCommand(g *globals) *cobra.Command {
	var cas string
	c := &cobra.Command{
		Use:   "verify NAME",
		Short: "Make sure that the CAS keeps the session that you created",
		Long: `Reads the session from the CAS, computes its hash here, and compares it with what
the CAS answers and with what was remembered when you created it.`,
		Example:           `  cupel session verify my-app`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: g.completeSessions,
		RunE:              func(cmd *cobra.Command, args []string) error { return runSessionVerify(cmd.Context(), g, args[0], cas) },
	}

	c.Flags().StringVar(&cas, "cas", "", "address of the CAS (default: where you created the session)")
	return c
}

type verifyReply struct {
	Session   ident.SessionName `json:"session"`
	Hash      ident.Digest      `json:"hash"`
	CAS       string            `json:"cas"`
	CreatedAt time.Time         `json:"created_at"`
	AuditHead uint64            `json:"audit_head"`
}

func runSessionVerify(ctx context.Context, g *globals, arg, cas string) error {
	name, err := parseSessionArg(arg)
	if err != nil {
		return err
	}

	side, err := g.ownerSide(ctx)
	if err != nil {
		return err
	}
	reply, err := side.verifySession(ctx, name, cas)
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(reply)
	}

	g.printf("session %s is the one that you created on %s\nhash    %s\ncas     %s, audit log followed to entry %d\n",
		reply.Session, reply.CreatedAt.Format(time.RFC3339), reply.Hash, reply.CAS, reply.AuditHead)
	return nil
}

// verifySession compares three hashes: ours over the text, the CAS's, and the
// one that was remembered.
func (o *ownerSide) verifySession(ctx context.Context, name ident.SessionName, cas string) (*verifyReply, error) {
	sessions, err := o.dir.Sessions()
	if err != nil {
		return nil, err
	}

	record, ok := sessions[name]
	if !ok {
		return nil, problem.New(problem.NotFound, problem.RuleSessionUnknown, "this owner's folder has no record of creating session %q", name).
			Want("a session that 'cupel session create' made from here: what it was made from is what is compared").
			Fix("use the folder that you created it with (--config DIR); or, with its key here and the rest lost, have it written down again, by the inputs that it was made from: "+
				"'cupel template …', then 'cupel session create FILE --name %s … --update'; one that was uploaded otherwise can be read (cupel session read %s) and its grants listed, but not verified yet", name, name)
	}

	c, _, err := o.casOf(ctx, name, cas)
	if err != nil {
		return nil, err
	}
	defer c.Close()

	got, err := c.ReadSession(ctx, name, nil)
	if err != nil {
		return nil, err
	}

	parsed, err := session.Parse([]byte(got.Text))
	if err != nil {
		return nil, err
	}

	own := parsed.Hash(o.id.KeyHash)
	if parsed.Name != name || own != got.Hash || own != record.Hash {
		return nil, problem.New(problem.Denied, problem.RuleSessionHash, "the CAS keeps version %s of session %s, whose text hashes to %s", got.Hash, parsed.Name, own).
			Want("%s, the version that you created on %s", record.Hash, record.At.UTC().Format(time.RFC3339)).
			Fix("if it wasn't you, stop: somebody else updated it. 'cupel session read %s' shows what it is now. If you updated it from another folder, use that one (--config DIR). "+
				"If you changed it by hand: it runs, and 'cupel deploy %s' deploys it, but only what 'cupel session create' makes can be verified; 'cupel session create FILE --name %s … --update' makes it that, without your change", name, name, name)
	}

	pin, _ := c.Pin()
	return &verifyReply{
		Session:   name,
		Hash:      own,
		CAS:       string(c.Address()),
		CreatedAt: record.At,
		AuditHead: pin.Head.Seq,
	}, nil
}

func newSessionValuesCommand(g *globals) *cobra.Command {
	var cas string
	c := &cobra.Command{
		Use:   "values NAME [SECRET]",
		Short: "Show what a session publishes, for instance its app's CA certificate",
		Example: `  cupel session values my-app
  cupel session values my-app app_ca > ca.pem`,
		Args:              exactArgs("NAME", "[SECRET]"),
		ValidArgsFunction: g.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSessionValues(cmd.Context(), g, cas, args)
		},
	}

	c.Flags().StringVar(&cas, "cas", "", "address of the CAS (default: where you created the session)")
	return c
}

func runSessionValues(ctx context.Context, g *globals, cas string, args []string) error {
	name, c, err := g.sessionAt(ctx, args[0], cas)
	if err != nil {
		return err
	}
	defer c.Close()

	if len(args) == 2 {
		v, err := c.Value(ctx, name, ident.SecretName(args[1]))
		if err != nil {
			return err
		}

		if g.json() {
			return g.printJSON(v)
		}
		return g.printDocument(v.Value)
	}

	all, err := c.Values(ctx, name)
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(all)
	}

	var rows [][]string
	for _, k := range sortedKeys(all) {
		until := "no end"
		if e := all[k].Expires; e != nil {
			until = e.UTC().Format(time.RFC3339)
		}

		rows = append(rows, []string{k, all[k].Kind, until})
	}

	return g.table([]string{"VALUE", "KIND", "GOOD UNTIL"}, rows)
}
