package template

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/session"
)

// Services of a template.
const (
	PullService ident.ServiceName = "pull_repo"
	AppService  ident.ServiceName = "client-app"
)

// PullRuntime is the runtime that PullService runs.
const PullRuntime = "puller"

// Places inside of the instances.
const (
	VolumePath = "/home/client-app"      // the encrypted volume
	RepoPath   = "/home/client-app/repo" // the repository in it
	TLSPath    = "/run/cupel/tls"        // cert.pem (with chain), key.pem, ca.pem
)

// Variables that a template leaves open.
const (
	VarSession = "SESSION"
	VarToken   = "ACCESS_TOKEN"
	VarRepo    = "GIT_REPO"
	VarCA      = "GIT_CA" // empty: the puller's own bundle

	// These only where the inputs say that there are such values.
	VarUser      = "GIT_USER"
	VarProxy     = "GIT_PROXY"
	EnvPrefix    = "ENV_"    // and the name of a variable of the app's
	SecretPrefix = "SECRET_" // and the name of one that is a secret
)

// Inputs are the owner's decisions: whatever a template may depend on.
type Inputs struct {
	Runtime string   // of AppService
	Command string   // of AppService
	Volume  string   // its name; "" is genesis
	DNS     []string // names in the app's certificate; none is localhost
	Ref     string   // branch, tag or commit to pull; "" is the default branch

	// OnRenewal is how the app takes a renewed certificate: a signal that tells it,
	// or "none" if it reads the files anew by itself. "": it doesn't, and the
	// operator replaces its instances in time.
	OnRenewal string

	// What the owner gives beside: the user name that goes with the token, a proxy
	// that leads to the git server, and variables for the app alone, by name. Their
	// values are variables of the template, filled in on the owner's side.
	GitUser bool
	Proxy   bool
	Env     []string
	Secrets []string

	// Simulation is the root whose simulated platforms are tolerated: the one
	// that the owner trusts (home.Pin has it). Nil tolerates none.
	Simulation *ident.Digest

	Measurements map[ident.ServiceName]ident.Measurement
	// Also are further measurements that a service may have: of the launcher
	// before an upgrade, while something still runs on it (see [reference.Kept]).
	Also map[ident.ServiceName][]ident.Measurement
}

var (
	runtimeName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)
	commitForm  = regexp.MustCompile(`^(?:[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})$`)
)

// PinnedRef is a ref as a session pins it: the puller knows a commit by its id as git
// writes it.
func PinnedRef(ref string) string {
	if commitForm.MatchString(ref) {
		return strings.ToLower(ref)
	}
	return ref
}

func (in Inputs) normal() (Inputs, error) {
	if in.Volume == "" {
		in.Volume = "genesis"
	}
	if len(in.DNS) == 0 {
		in.DNS = []string{"localhost"}
	}

	refuse := func(flag, format string, args ...any) (Inputs, error) {
		return Inputs{}, problem.New(problem.Invalid, problem.RuleTemplateInput, format, args...).Fix("give --%s", flag)
	}

	switch words, err := session.SplitCommand(in.Command); {
	case err != nil:
		return Inputs{}, problem.New(problem.Invalid, problem.RuleTemplateInput, "the command: %v", err).
			Fix("close it in --command; a quote that the program is to get stands within quotes of the other kind")
	case len(words) == 0:
		return refuse("command", "no command")
	case !runtimeName.MatchString(in.Runtime):
		return Inputs{}, problem.New(problem.Invalid, problem.RuleTemplateInput, "the runtime is %.100q", in.Runtime).
			Want("1 to 64 of a-z 0-9 . _ -, the first a letter or digit").Fix("give --runtime with a name that 'cupel runtime list' shows")
	}

	if _, err := ident.ParseServiceName(in.Volume); err != nil {
		return Inputs{}, problem.New(problem.Invalid, problem.RuleTemplateInput, "--volume is %.100q", in.Volume).
			Want("1 to 128 of A-Z a-z 0-9 _ . ~ -").Fix("give --volume with such a name")
	}

	for _, name := range in.DNS {
		if wrong := session.WrongHost(name); wrong != nil {
			return Inputs{}, problem.New(problem.Invalid, problem.RuleTemplateInput, "--dns is %.100q: it %s", name, wrong.Why).
				Want("a DNS name or an IP address").Fix("%s", wrong.Mend)
		}
	}

	if in.Ref != "" {
		if err := CheckRef(in.Ref); err != nil {
			return Inputs{}, err
		}
		in.Ref = PinnedRef(in.Ref)
	}

	if err := checkVariables(in.Env, in.Secrets); err != nil {
		return Inputs{}, err
	}
	in.Env = slices.Sorted(slices.Values(in.Env))
	in.Secrets = slices.Sorted(slices.Values(in.Secrets))

	if in.OnRenewal != "" && in.OnRenewal != session.NoSignal {
		name, ok := session.ParseSignal(strings.ToUpper(in.OnRenewal))
		if !ok {
			return Inputs{}, problem.New(problem.Invalid, problem.RuleTemplateInput, "--on-renewal is %.40q", in.OnRenewal).
				Want("none, or one of %s", session.Signals()).
				Fix("name the signal that has the app read its certificate anew, as in --on-renewal SIGHUP")
		}

		in.OnRenewal = name
	}

	for _, service := range []ident.ServiceName{PullService, AppService} {
		if in.Measurements[service].IsZero() {
			return Inputs{}, problem.New(problem.Invalid, problem.RuleTemplateInput, "no measurement for the service %s", service).
				Fix("build the runtime, or take its measurement from `cupel runtime measure`")
		}
	}

	return in, nil
}

// RuntimeOf returns the runtime that a service of the template runs.
func (in Inputs) RuntimeOf(service ident.ServiceName) string {
	if service == PullService {
		return PullRuntime
	}
	return in.Runtime
}

// Render writes the session template for the inputs: equal inputs give equal
// bytes. The variables of VarSession and so on are left open.
func Render(in Inputs) ([]byte, error) {
	in, err := in.normal()
	if err != nil {
		return nil, err
	}
	return in.template()
}

func (in Inputs) template() ([]byte, error) {
	text := make(map[string]string)
	for key, value := range map[string]string{"command": in.Command, "expect": expectedFile(in.Command), "ref": in.Ref, "volume": in.Volume} {
		escaped, err := session.EscapeVariables(value)
		if err != nil {
			return nil, problem.New(problem.Invalid, problem.RuleTemplateInput, "the %s: %v", key, err)
		}
		text[key] = session.Quote(escaped)
	}

	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Session template: an app out of a private git repository, runtime %s.", in.Runtime)
	p(`version: "0.3"`)
	p("name: $%s", VarSession)
	p("")

	p("services:")
	p("  - name: %s", PullService)
	p("    image_name: %s", PullService)
	p("    attestation:")
	p("      - mrenclave: [%s]", in.measurements(PullService))
	p("    command: /usr/bin/cupel-pull")
	p("    environment:")
	p("      CUPEL_PULL_DIR: %s", RepoPath)
	if expectedFile(in.Command) != "" {
		p("      CUPEL_PULL_EXPECT: %s", text["expect"])
	}
	if in.Ref != "" {
		p("      CUPEL_PULL_REF: %s", text["ref"])
	}
	p("    pwd: /tmp")

	p("  - name: %s", AppService)
	p("    image_name: %s", AppService)
	p("    attestation:")
	p("      - mrenclave: [%s]", in.measurements(AppService))
	p("    command: %s", text["command"])
	in.environment(p)
	p("    pwd: %s", RepoPath)
	if in.OnRenewal != "" {
		p("    cupel:")
		p("      on_renewal: %s", in.OnRenewal)
	}
	p("")

	in.secrets(p)
	p("volumes:")
	p("  - name: %s", text["volume"])
	p("")
	in.images(p, text["volume"])

	p("access_policy:")
	p("  read: [CREATOR]")
	p("  update: [CREATOR]")

	if in.Simulation != nil {
		p("")
		p("# For trying out on a simulated platform: it keeps no secret from its host.")
		p("security:")
		p("  attestation:")
		p("    tolerate: [%s]", session.Quote(string(evidence.SimulationUnder(*in.Simulation))))
	}

	out := []byte(b.String())
	if _, err := session.ParseFilled(out, func(name string) (secret.Value, bool) { return secret.NewString(name), true }); err != nil {
		p := problem.From(fmt.Errorf("the inputs make no valid session: %w", err))
		if p.Mend == "" {
			p = p.Fix("correct what you gave with --command, --volume or --dns")
		}
		return nil, p
	}

	return out, nil
}

// measurements lists what a service may be, the newest first.
func (in Inputs) measurements(service ident.ServiceName) string {
	all := []string{session.Quote(in.Measurements[service].String())}
	for _, m := range in.Also[service] {
		all = append(all, session.Quote(m.String()))
	}

	return strings.Join(all, ", ")
}

// environment is the app's own.
func (in Inputs) environment(p func(string, ...any)) {
	if len(in.Env)+len(in.Secrets) == 0 {
		return
	}

	p("    environment:")
	for _, name := range in.Env {
		p(`      %s: "$%s"`, session.Quote(name), EnvPrefix+name)
	}

	for _, name := range in.Secrets {
		p("      %s: $$SCONE::%s$$", session.Quote(name), secretOf(name))
	}
}

// secretOf is the name of the secret that a variable of the app's holds.
func secretOf(variable string) string { return "secret_" + variable }

func (in Inputs) secrets(p func(string, ...any)) {
	p("secrets:")

	type given struct{ name, variable string }
	all := []given{{"access_token", VarToken}, {"git_repo", VarRepo}, {"git_ca", VarCA}}

	if in.GitUser {
		all = append(all, given{"git_user", VarUser})
	}

	if in.Proxy {
		all = append(all, given{"git_proxy", VarProxy})
	}

	for _, name := range in.Secrets {
		all = append(all, given{secretOf(name), SecretPrefix + name})
	}

	for _, s := range all {
		p("  - name: %s", s.name)
		p("    kind: ascii")
		p(`    value: "$%s"`, s.variable)
	}

	p("  - name: app_ca_key")
	p("    kind: private-key")
	p("  - name: app_ca")
	p("    kind: x509-ca")
	p("    private_key: app_ca_key")
	p("    export_public: true")

	p("  - name: app_cert # a key of its own for each instance")
	p("    kind: x509")
	p("    issuer: app_ca")
	p("    endpoint: server")
	p("    dns:")
	for _, name := range in.DNS {
		p("      - %s", session.Quote(name))
	}

	p("")
}

func (in Inputs) images(p func(string, ...any), volume string) {
	file := func(path, content string) {
		p("      - path: %s", path)
		p("        content: %s", content)
	}

	p("images:")
	p("  - name: %s", PullService)
	p("    volumes:")
	p("      - name: %s", volume)
	p("        path: %s", VolumePath)
	p("        update_policy: rollback_protected")

	p("    injection_files:")
	file("/run/cupel/pull/token", "$$SCONE::access_token$$")
	file("/run/cupel/pull/repository", "$$SCONE::git_repo$$")
	file("/run/cupel/pull/ca.pem", "$$SCONE::git_ca$$")
	if in.GitUser {
		file("/run/cupel/pull/user", "$$SCONE::git_user$$")
	}
	if in.Proxy {
		file("/run/cupel/pull/proxy", "$$SCONE::git_proxy$$")
	}

	p("  - name: %s", AppService)
	p("    volumes:")
	p("      - name: %s", volume)
	p("        path: %s", VolumePath)
	p("        update_policy: ephemeral")

	p("    injection_files:")
	file(TLSPath+"/cert.pem", "$$SCONE::app_cert:crt$$$$SCONE::app_cert:chain$$")
	file(TLSPath+"/key.pem", "$$SCONE::app_cert:privatekey$$")
	file(TLSPath+"/ca.pem", "$$SCONE::app_ca:crt$$")

	p("")
}

// expectedFile is the first word of the command that names a file in the
// repository, or "": the puller checks that it is there.
func expectedFile(command string) string {
	words, err := session.SplitCommand(command)
	if err != nil {
		return ""
	}

	for _, w := range words {
		if strings.HasPrefix(w, RepoPath+"/") && path.Clean(w) == w && !strings.Contains(w, "$$SCONE") {
			return w
		}
	}

	return ""
}
