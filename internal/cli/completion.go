package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/runtimes"
)

// completionTime is how long a person who pressed Tab waits at most.
const completionTime = 300 * time.Millisecond

// words returns what a completion offers. Each has the form that names of its kind have,
// since whoever tells them is trusted with nothing. It returns nil, in silence, where they
// can't be known.
type words func(ctx context.Context, args []string) []string

// complete makes of words what cobra asks for: nothing is said, nothing lasts, and no
// key is made for it. Without keys there is nothing to see.
func (g *globals) complete(offer words) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if c.Context() == nil || !g.haveKey() {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}

		ctx, cancel := context.WithTimeout(c.Context(), completionTime)
		defer cancel()

		g.err = io.Discard
		g.wait = completionTime
		g.completing = true
		return clean(offer(ctx, args)), cobra.ShellCompDirectiveNoFileComp
	}
}

// clean is what may be offered: a shell puts a word into the line that is run next, and
// bash, where several are left, puts there what they have in common, with what each is.
// So each is one that means nothing else to a shell and is no flag, is there once, and is
// described by such a word.
func clean(offered []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, o := range offered {
		word, about, _ := strings.Cut(o, "\t")
		if !bareWord.MatchString(word) || seen[word] {
			continue
		}

		seen[word] = true
		if bareWord.MatchString(about) {
			word += "\t" + about
		}
		out = append(out, word)
	}
	return out
}

// bareWord is what every shell takes for one word, as it stands.
var bareWord = regexp.MustCompile(`^[A-Za-z0-9_.\[][A-Za-z0-9_.~/:\[\]-]*$`)

// haveKey reports whether there is a key to ask with: keys are made by commands that
// do something.
func (g *globals) haveKey() bool {
	_, err := os.Stat(filepath.Join(g.state, "operator.key"))
	return err == nil || g.haveOwnKey()
}

func (g *globals) haveOwnKey() bool {
	_, err := os.Stat(filepath.Join(g.config, "identity.key"))
	return err == nil
}

// first offers words for the first argument alone.
func first(offers ...words) words {
	return func(ctx context.Context, args []string) []string {
		if len(args) > 0 {
			return nil
		}

		var out []string
		for _, offer := range offers {
			out = append(out, offer(ctx, args)...)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
}

// ask offers what a manager answers that is known already: nobody is met for the
// first time by a completion.
func (as *managerAs) ask(offer func(ctx context.Context, m *client.Manager) []string) words {
	return func(ctx context.Context, _ []string) []string {
		if !as.g.completes() {
			return nil
		}

		m, _, err := as.dial(ctx)
		if err != nil {
			return nil
		}
		defer m.Close()

		return offer(ctx, m)
	}
}

// apps offers the names of the apps that the caller may see.
func (as *managerAs) apps() words {
	return as.ask(func(ctx context.Context, m *client.Manager) []string {
		apps, err := m.Apps(ctx)
		if err != nil {
			return nil
		}

		var out []string
		for _, a := range apps {
			out = append(out, a.Name)
		}
		return out
	})
}

// instances offers the instances of the apps that the caller may see, each with its
// app.
func (as *managerAs) instances() words {
	return as.ask(func(ctx context.Context, m *client.Manager) []string {
		list, err := m.Instances(ctx, "")
		if err != nil {
			return nil
		}

		var out []string
		for _, i := range list {
			if i.Role == manager.RoleApp {
				out = append(out, i.ID+"\t"+i.App)
			}
		}
		return out
	})
}

// runtimes offers the runtimes that are built in and those that the manager has.
func (as *managerAs) runtimes() words {
	offered := as.ask(func(ctx context.Context, m *client.Manager) []string {
		list, err := m.Runtimes(ctx)
		if err != nil {
			return nil
		}
		return slices.DeleteFunc(runtimeNames(list), func(name string) bool {
			_, err := rebuild.ParseName(name)
			return err != nil
		})
	})

	return func(ctx context.Context, args []string) []string {
		return append(runtimes.Names(), offered(ctx, args)...)
	}
}

// completeRuntimes offers runtimes, for a flag or the first argument.
func (g *globals) completeRuntimes(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if !g.haveKey() {
		return runtimes.Names(), cobra.ShellCompDirectiveNoFileComp
	}

	as := managerAs{g: g}
	return g.complete(func(ctx context.Context, _ []string) []string { return first(as.runtimes())(ctx, nil) })(c, args, typed)
}

// sessions are those that the owner created.
func (g *globals) sessions(context.Context, []string) []string {
	dir, err := g.ownerDir()
	if err != nil {
		return nil
	}

	sessions, err := dir.Sessions()
	if err != nil {
		return nil
	}

	var out []string
	for name := range sessions {
		if _, err := ident.ParseSessionName(string(name)); err == nil {
			out = append(out, string(name))
		}
	}
	slices.Sort(out)
	return out
}

// completeSessions offers the owner's sessions.
func (g *globals) completeSessions(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return g.complete(first(g.sessions))(c, args, typed)
}

// completeGrants offers the grants of a session that have not ended.
func (g *globals) completeGrants(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	addr, _ := c.Flags().GetString("cas")
	return g.complete(func(ctx context.Context, args []string) []string {
		if len(args) == 0 {
			return nil
		}

		name, cas, err := g.sessionAt(ctx, args[0], addr)
		if err != nil {
			return nil
		}
		defer cas.Close()

		all, err := cas.Grants(ctx, name)
		if err != nil {
			return nil
		}

		var out []string
		for _, grant := range all {
			if grant.State != owners.GrantEnded {
				out = append(out, grant.ID.String()+"\t"+grant.App)
			}
		}
		return out
	})(c, args, typed)
}
