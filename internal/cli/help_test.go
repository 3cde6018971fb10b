package cli

import (
	"bytes"
	"cmp"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cupel.dev/cupel/api/problem"
)

// eachCommand visits the commands that do something, and the groups that hold them.
func eachCommand(visit func(c *cobra.Command)) {
	root := newRootCommand(&globals{out: &bytes.Buffer{}, env: func(string) string { return "" }, now: time.Now})
	var below func(c *cobra.Command)
	below = func(c *cobra.Command) {
		visit(c)
		for _, sub := range c.Commands() {
			below(sub)
		}
	}
	below(root)
}

// callOf is how a command is called.
func callOf(c *cobra.Command) []string { return strings.Fields(c.CommandPath())[1:] }

// TestMendsNameTheStateFolder: of the commands that work on a state folder those that a
// mend may name say which one it is about. The others are an owner's: they make something
// for whichever manager is meant then, or ask for the address.
func TestMendsNameTheStateFolder(t *testing.T) {
	owners := []string{"cupel cas attest", "cupel deploy", "cupel verify", "cupel session submit", "cupel template", "cupel runtime measure", "cupel runtime show"}
	g := &globals{state: "/srv/cupel"}
	eachCommand(func(c *cobra.Command) {
		path := c.CommandPath()
		if c.HasSubCommands() {
			return
		}
		named := slices.Contains(sharedFlags(path), "state") && !slices.Contains(owners, path)
		if got := strings.Contains(g.inState("run: "+path+" x"), path+" --state /srv/cupel x"); got != named {
			t.Errorf("a mend that says %s names the folder: %v, want %v", path, got, named)
		}
	})
	g.provider = "https://provider.example.org"
	if got := g.inState("run: cupel ps"); got != "run: cupel ps" {
		t.Errorf("of a provider: %s", got)
	}
}

// TestHelp: every command's help has an example and fits into 80 columns, but for its
// examples, which are to be copied.
func TestHelp(t *testing.T) {
	eachCommand(func(c *cobra.Command) {
		code, out, errs := runCLI(t, append(callOf(c), "--help")...)
		if code != 0 || errs != "" || !strings.Contains(out, "\nExamples:\n  ") {
			t.Errorf("%s --help: exit %d, %q, %q", c.CommandPath(), code, out, errs)
		}
		_, again, _ := runCLI(t, append([]string{"help"}, callOf(c)...)...)
		alike := func(text string) string { s, _, _ := strings.Cut(text, "  -h, --help"); return s }
		if alike(again) != alike(out) {
			t.Errorf("help %s says something else than %s --help", c.CommandPath(), c.CommandPath())
		}
		before, rest, _ := strings.Cut(out, "\nExamples:\n")
		_, after, _ := strings.Cut(rest, "\n\n")
		for line := range strings.SplitSeq(before+after, "\n") {
			if utf8.RuneCountInString(line) > helpColumns {
				t.Errorf("%s --help has a line of %d columns: %s", c.CommandPath(), utf8.RuneCountInString(line), line)
			}
		}
	})
}

// TestHelpDefaults: each default that a help text shows is the one that there is, and
// none is empty or said twice.
func TestHelpDefaults(t *testing.T) {
	shown := regexp.MustCompile(`(?s)\(default:? ([^)]*)\)`)
	eachCommand(func(c *cobra.Command) {
		if c.HasSubCommands() {
			return
		}
		code, out, _ := runCLI(t, append(callOf(c), "--help")...)
		_, flags, _ := strings.Cut(out, "\nFlags:\n")
		texts := map[string]string{}
		for _, part := range regexp.MustCompile(`(?m)^ +(?:-\w, )?--`).Split(flags, -1)[1:] {
			name, text, _ := strings.Cut(part, " ")
			texts[strings.TrimSpace(name)] = text
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			all := shown.FindAllStringSubmatch(texts[f.Name], -1)
			if code != 0 || len(all) > 1 || len(all) == 1 && strings.TrimSpace(all[0][1]) == "" {
				t.Errorf("%s --%s: its defaults are %q", c.CommandPath(), f.Name, all)
			}
			if f.Value.Type() != "duration" || strings.Contains(f.Usage, "default: ") {
				return
			}
			want, err := time.ParseDuration(f.DefValue)
			if err != nil {
				t.Fatal(err)
			}
			if want == 0 && len(all) == 0 {
				return
			}
			if len(all) == 0 {
				t.Errorf("%s --%s: no default is shown, which is %s", c.CommandPath(), f.Name, want)
				return
			}
			if got, err := time.ParseDuration(all[0][1]); err != nil || got != want {
				t.Errorf("%s --%s: the default is shown as %q (%v), and is %s", c.CommandPath(), f.Name, all[0][1], err, want)
			}
		})
	})
	for given, want := range map[string]string{"10m0s": "10m", "30s": "30s", "1h0m0s": "1h", "1h30m0s": "1h30m", "1m30s": "1m30s", "10s": "10s", "0s": "0s", "1h0m10s": "1h0m10s", "500ms": "500ms"} {
		var set pflag.FlagSet
		d, _ := time.ParseDuration(given)
		set.Duration("x", d, "")
		if got := defaultShown(set.Lookup("x")); got != want {
			t.Errorf("%s is shown as %q, not %q", given, got, want)
		}
	}
}

// TestSharedFlags: a command has the shared flags that it heeds, and refuses the others
// by name.
func TestSharedFlags(t *testing.T) {
	short := map[string][]string{"output": {"-o", "json"}, "wait": {"--wait=1s"}}
	eachCommand(func(c *cobra.Command) {
		heeds := sharedFlags(c.CommandPath())
		if c.HasSubCommands() {
			return
		}
		_, help, _ := runCLI(t, append(callOf(c), "--help")...)
		_, offered, _ := runCLI(t, append(append([]string{"__complete"}, callOf(c)...), "--")...)
		for _, name := range allShared {
			own := c.LocalNonPersistentFlags().Lookup(name) != nil
			has := slices.Contains(heeds, name) || own
			if strings.Contains(help, "--"+name+" ") != has || strings.Contains(offered, "--"+name+"\t") != has {
				t.Errorf("%s heeds --%s: %t; its help or completion says otherwise:\n%s\n%s", c.CommandPath(), name, has, help, offered)
			}
		}
		if len(heeds) == len(allShared) {
			t.Errorf("nobody says which shared flags %s heeds", c.CommandPath())
		}
		for _, name := range allShared {
			if slices.Contains(heeds, name) || c.LocalNonPersistentFlags().Lookup(name) != nil { // its own, of another meaning
				continue
			}
			given := short[name]
			if given == nil {
				given = []string{"--" + name, "x"}
			}
			call := callOf(c)
			for _, arg := range strings.Fields(c.Use)[1:] {
				if arg == "|" || strings.HasPrefix(arg, "[") {
					break
				}
				call = append(call, arg)
			}
			for _, args := range [][]string{append(slices.Clone(call), given...), append(slices.Clone(given), call...)} {
				code, out, errs := runCLI(t, args...)
				if code != problem.Invalid.ExitCode() || out != "" || !strings.Contains(errs, "--"+name+" ") || !strings.Contains(errs, "usage") || !strings.Contains(errs, "leave it out") {
					t.Errorf("%q: exit %d, %q, %q", args, code, out, errs)
				}
			}
		}
	})
}

// TestNearNames: what is written wrong is refused, wherever it stands, with the name
// that is near.
func TestNearNames(t *testing.T) {
	for call, want := range map[string]string{
		"deploy x --memry 1G":         `unknown flag: "--memry"` + "\n  mend:     did you mean --memory? See 'cupel deploy --help'",
		"deploy x -memory 1G":         "unknown shorthand flag -m\n  mend:     did you mean --memory?",
		"deploy x --inst 2":           `unknown flag: "--inst"` + "\n  mend:     did you mean --instances?",
		"deploy x --nothing-like-it":  `unknown flag: "--nothing-like-it"` + "\n  mend:     see 'cupel deploy --help'",
		"session submit x --use-bye":  "did you mean --use-by?",
		"sesion":                      `unknown command "sesion"` + "\n  expected: session\n  mend:     did you mean session? See 'cupel --help'",
		"sesion create f --name x":    "did you mean session?",
		"session crate":               "did you mean create? See 'cupel session --help'",
		"session crate f --name x":    "did you mean create?",
		"session crate --help":        "did you mean create?",
		"runtime mesure python":       "did you mean measure?",
		"-o table cas atest":          "did you mean attest?",
		"nope":                        `unknown command "nope"` + "\n  mend:     see 'cupel --help'",
		"nope --help":                 `unknown command "nope"`,
		"help nope":                   `unknown command "nope"`,
		"help deploi":                 "did you mean deploy?",
		"help session crate":          "did you mean create?",
		"help session create further": `unknown command "further"`,
		"completion nope":             `no completion for the shell "nope"` + "\n  expected: bash, fish, powershell, zsh",
		"completion bahs":             "did you mean bash?",
		"completion":                  "expected: SHELL",
		"help ps -o json":             `"actual":"--output changes nothing of 'cupel help'"`,
		"session -o json":             `"actual":"no command, of which -o json could print the answer"`,
		"github_pat_11ABCDEFG0":       "unknown command (21 characters, not shown)",
		"--github_pat_11ABCDEFG0 x":   "unknown flag: (23 characters, not shown)",
	} {
		code, out, errs := runCLI(t, strings.Fields(call)...)
		if code != problem.Invalid.ExitCode() || out != "" || !strings.Contains(errs, want) {
			t.Errorf("cupel %s: exit %d, %q, %q: want %q", call, code, out, errs, want)
		}
	}
}

// TestFlagsThatGoTogether: a flag that changes nothing without another is refused.
func TestFlagsThatGoTogether(t *testing.T) {
	for call, want := range map[string]string{
		"cas attest localhost --isvprodid 1":             "--isvprodid changes nothing without --mrsigner",
		"cas attest localhost --isvsvn-min 1":            "--isvsvn-min changes nothing without --mrsigner",
		"session submit x --cas-instances localhost:1":   "--cas-instances changes nothing without --token",
		"session submit x --service web=1 --instances 2": "--instances with --service or --job",
		"runtime measure python --mirror http://m":       "--mirror changes nothing without --from mirror",
		"session create f --drop-old":                    "--drop-old without --update",
		"session grants x --instances 2":                 "--grant goes with --instances or --service",
	} {
		code, out, errs := runCLI(t, strings.Fields(call)...)
		if code != problem.Invalid.ExitCode() || out != "" || !strings.Contains(errs, "usage: "+want) || !strings.Contains(errs, "mend:") {
			t.Errorf("cupel %s: exit %d, %q, %q: want %q", call, code, out, errs, want)
		}
	}
}

// TestLogLevelOfTheDaemon: cupeld is given the log level of a flag or the environment, and
// without one a command's help shows cupeld's own.
func TestLogLevelOfTheDaemon(t *testing.T) {
	for _, tt := range []struct{ command, env, flag, want string }{
		{"up", "", "", "info"},
		{"install-service", "", "", "info"},
		{"cleanup", "", "", "warn"},
		{"up", "debug", "", "debug"},
		{"up", "debug", "--log-level=warn", "warn"},
	} {
		g := &globals{out: &bytes.Buffer{}, now: time.Now, env: func(name string) string {
			return map[string]string{"CUPEL_LOG": tt.env}[name]
		}}
		c, _, err := newRootCommand(g).Find([]string{tt.command})
		if err != nil {
			t.Fatal(err)
		}
		if tt.flag != "" {
			err = c.ParseFlags([]string{tt.flag})
		}
		got := g.forwarded(c)
		at, given := slices.Index(got, "--log-level"), tt.env+tt.flag != ""
		if err != nil || given != (at >= 0) || given && got[at+1] != tt.want {
			t.Errorf("%+v: %v, %q", tt, err, got)
		}
		g.showHelp(c)
		help := strings.Join(strings.Fields(g.out.(*bytes.Buffer).String()), " ")
		want := `(CUPEL_LOG) (default "` + cmp.Or(tt.env, tt.want) + `")`
		if !strings.Contains(help, want) {
			t.Errorf("%+v: its help doesn't say %s:\n%s", tt, want, help)
		}
	}
}
