package launcher

import (
	"net"
	"slices"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/wire"
)

const defaultCASPort = "18765"

// Host is what the host may tell an instance, and nothing more.
type Host struct {
	CAS    string           // HOST:PORT of the CAS's instances' API
	LAS    string           // "unix:" and the path of the LAS socket
	Config ident.ServiceRef // whose configuration to ask for
	Grant  secret.Value     // the right to run, as a token; may be empty
}

// maxGrant bounds a grant's token, in bytes.
const maxGrant = 512

// hostVariables maps the names that are taken to the values. The SCONE names
// are those that people and charts already write.
var hostVariables = map[string]string{
	"CUPEL_CAS_ADDR": "cas", "SCONE_CAS_ADDR": "cas",
	"CUPEL_LAS_ADDR": "las", "SCONE_LAS_ADDR": "las",
	"CUPEL_CONFIG_ID": "config", "SCONE_CONFIG_ID": "config",
	"CUPEL_GRANT": "grant",
}

// ParseHost reads the launcher's environment. Any variable beyond the four is
// refused, since variables change what programs do (LD_PRELOAD,
// GIT_SSL_NO_VERIFY); HOME alone is passed over, because container runtimes
// add it on their own, and it goes nowhere.
func ParseHost(environ []string) (Host, error) {
	values := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if name == "HOME" {
			continue
		}
		field, ok := hostVariables[name]
		if !ok {
			return Host{}, problem.New(problem.Denied, ruleHostEnvironment, "the host set the variable %q", clip(name)).
				Want("CUPEL_CAS_ADDR, CUPEL_LAS_ADDR, CUPEL_CONFIG_ID and CUPEL_GRANT alone").
				Fix("start the instance by the launch profile; the app's environment is the session's")
		}

		if old, ok := values[field]; ok && old != value && field == "grant" {
			return Host{}, problem.New(problem.Invalid, ruleHostEnvironment, "%s is there twice", name)
		} else if ok && old != value {
			return Host{}, problem.New(problem.Invalid, ruleHostEnvironment, "%s and its SCONE alias differ", name)
		}

		values[field] = value
	}

	if values["cas"] == "" || values["las"] == "" || values["config"] == "" {
		return Host{}, problem.New(problem.Invalid, ruleHostEnvironment, "a host variable is missing").
			Want("CUPEL_CAS_ADDR, CUPEL_LAS_ADDR and CUPEL_CONFIG_ID").
			Fix("cupel-init runs inside instances only; see `cupel up`")
	}

	config, err := ident.ParseServiceRef(values["config"])
	if err != nil {
		return Host{}, problem.New(problem.Invalid, problem.RuleConfigID, "%w", err)
	}

	if _, err := wire.SocketPath(values["las"]); err != nil {
		return Host{}, err
	}

	grant, err := parseGrant(values["grant"])
	if err != nil {
		return Host{}, err
	}

	cas := values["cas"]
	if _, _, err := net.SplitHostPort(cas); err != nil {
		cas = net.JoinHostPort(strings.Trim(cas, "[]"), defaultCASPort)
	}
	return Host{
		CAS:    cas,
		LAS:    values["las"],
		Config: config,
		Grant:  grant,
	}, nil
}

// parseGrant checks a token's form, and never says what it is.
func parseGrant(s string) (secret.Value, error) {
	printable := !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
	if len(s) > maxGrant || !printable {
		return secret.Value{}, problem.New(problem.Invalid, ruleGrantForm, "CUPEL_GRANT has %d bytes or something else than printable characters", len(s)).
			Want("a token of at most %d printable ASCII characters without spaces", maxGrant).
			Fix("give the token as it was made, without quotes or line ends")
	}
	return secret.NewString(s), nil
}

// Command is what the image says about its own process. It comes as the
// launcher's argv, which is measured.
type Command struct {
	User string   // as in the image: "", "name", "uid", "name:group", "uid:gid"
	Cwd  string   // absolute
	Env  []string // NAME=VALUE
	Argv []string // entrypoint and command
}

// ParseCommand reads the arguments after "run".
func ParseCommand(args []string) (Command, error) {
	c := Command{Cwd: "/"}
	for len(args) > 0 {
		if args[0] == "--" {
			c.Argv = args[1:]
			return c, nil
		}

		if len(args) < 2 {
			break
		}

		switch flag, value := args[0], args[1]; {
		case flag == "--user":
			c.User = value
		case flag == "--cwd" && strings.HasPrefix(value, "/"):
			c.Cwd = value
		case flag == "--env" && strings.Index(value, "=") > 0:
			c.Env = append(c.Env, value)
		default:
			return Command{}, usage(flag)
		}

		args = args[2:]
	}
	return Command{}, usage(strings.Join(args, " "))
}

func usage(at string) error {
	return problem.New(problem.Invalid, ruleArguments, "at %q", clip(at)).
		Want("cupel-init run [--user U] [--cwd DIR] [--env NAME=VALUE]... -- COMMAND...")
}

// mergeEnv returns base overridden by over, by name, in a stable order.
func mergeEnv(base, over []string) []string {
	var names []string
	values := map[string]string{}
	for _, entry := range slices.Concat(base, over) {
		name, _, _ := strings.Cut(entry, "=")
		if _, ok := values[name]; !ok {
			names = append(names, name)
		}
		values[name] = entry
	}

	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, values[n])
	}
	return out
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
