package cli

import (
	"github.com/spf13/cobra"

	"cupel.dev/cupel/internal/upflags"
)

func newUpCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "up",
		Short: "Run manager, node, LAS, registry and CAS on this machine",
		Long: `Runs everything that an operator needs on this machine, with its state in one
folder (--state). Runs cupeld, as root.

Ctrl-C stops the apps too and keeps what is desired; SIGTERM leaves the apps
running, and the next up adopts them.

Addresses and ports that aren't given are those of the last start: owners and
instances know them. A start without the --deploy-keys of the last one is refused
(deploy_keys_missing), so that a forgotten flag opens nothing; of each other flag that
the last one had it says that the default holds again.

Where a firewall or a setting of this machine stands in the way of instances or of
their users, up says so and goes on; 'cupel check' tries it again.`,
		Example: "  cupel up --detach\n  cupel up --state /srv/cupel --manager-listen 127.0.0.1:5000\n  cupel up --detach --drain 2m",
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return g.execSibling("cupeld", g.forwarded(c)...) },
	}

	new(upflags.Start).Declare(c.Flags())
	new(upflags.Installation).Declare(c.Flags())
	return c
}

func newInstallServiceCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "install-service",
		Short: "Have systemd run this installation from boot on",
		Long: `Makes and enables a systemd unit that runs 'cupel up' for this state folder, with
the flags that are given here, whenever the machine starts: after the network, and
after a clock that isn't set yet. Restarting or stopping the unit leaves the apps
running; at shutdown they are stopped in order and store their volumes. Each
installation (--state) has a unit of its own. Flags are checked as 'cupel up' checks
them. Run again it says what differs from the unit before; with the same flags it
changes nothing. Runs cupeld, as root.`,
		Example: `  cupel install-service --manager-listen 127.0.0.1:5000
  cupel install-service --print`,
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error { return g.execSibling("cupeld", g.forwarded(c)...) },
	}
	c.Flags().Bool("print", false, "only print the unit")
	new(upflags.Installation).Declare(c.Flags())
	return c
}

func newUninstallServiceCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "uninstall-service",
		Short:   "Undo install-service; what runs goes on",
		Long:    "Disables and removes the systemd unit of this state folder. What runs goes on; 'cupel\ncleanup' removes the unit too. Runs cupeld, as root.",
		Example: "  cupel uninstall-service",
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return g.execSibling("cupeld", g.forwarded(c)...) },
	}
}

func newCheckCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "Try whether this machine lets instances and users through",
		Long: `Tries, from throw-away network namespaces, whether an instance reaches the CAS,
the world outside and a name server, and whether users outside reach a public port
over IPv4 and IPv6. Where something stands in the way it names the rule or setting,
and the command that lets it through. Nothing of it leaves this machine, but for what
--to asks for, which is really called; and nothing is changed. Runs cupeld, as root;
works whether 'cupel up' runs or not.

Ends with 0 if everything gets through, and with 7 (network_blocked) if not. What can't
be known ('?') is no failure.`,
		Example: `  cupel check
  cupel check --to git.example.com:443
  cupel check --to host.cupel.internal:3000 -o json`,
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error { return g.execSibling("cupeld", g.forwarded(c)...) },
	}

	f := c.Flags()
	f.String("cas-instances", "", "address of the CAS's instances' API, where cupeld doesn't run (default: that of the last cupel up, or 0.0.0.0:18765)")
	f.String("subnet", "", "network of the instances, where cupeld doesn't run (default: as cupel up would choose)")
	f.Uint16("first-port", 0, "public port that is tried, or the next free one, where no app has one (default: that of the last cupel up, or 8082)")
	f.StringArray("to", nil, "HOST:PORT that an instance shall reach too; may be given again")
	return c
}

func newDownCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "down",
		Short: "Stop apps and daemons; the next up starts the apps again",
		Long: `Stops all apps and everything that 'cupel up' started, also if it died or never
came up. What is desired stays in the state folder. Apps that write volumes store
them; where that can't be (rule down_unsafe) nothing is stopped, but with --force.
Runs cupeld, as root.`,
		Example: `  cupel down
  cupel down --force`,
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error { return g.execSibling("cupeld", g.forwarded(c)...) },
	}
	c.Flags().Bool("force", false, "end apps also where they can't store what they wrote")
	return c
}

func newCleanupCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "cleanup",
		Short: "Stop everything and remove it, the state folder included",
		Long: `Stops everything and removes it from this machine: processes, mounts, network
namespaces, packet rules, control groups, changed kernel settings, and the state
folder with the CAS's sessions, secrets and volumes. There is no way back. Runs
cupeld, as root.`,
		Example: "  cupel cleanup\n  cupel cleanup --yes --state /srv/cupel",
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return g.execSibling("cupeld", g.forwarded(c)...) },
	}
	c.Flags().Bool("yes", false, "don't ask")
	return c
}
