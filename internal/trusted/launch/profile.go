package launch

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
)

// The profiles. Their measured part never changes: a change is a new file, a new
// version and a new domain.
var (
	//go:embed profile-v1.json
	profileV1 []byte
	//go:embed profile-v2.json
	profileV2 []byte
)

// Version names a launch profile.
type Version string

// The versions that are known. The newest is for what is made now; a stored
// launch that names none is of the first.
const (
	V1     Version = "v1"
	V2     Version = "v2"
	Newest         = V2
)

// annotation is where a spec names its version, from v2 on.
const annotation = "dev.cupel.launch-profile"

// profile is one version.
type profile struct {
	spec []byte
	// domain separates this version's hash from every other.
	domain string
	// variables are the launcher's environment: the names are measured, in
	// this order, the values are free.
	variables []string
}

var profiles = map[Version]profile{
	V1: {
		spec:      profileV1,
		domain:    "cupel/measured-launch/v1",
		variables: []string{EnvCAS, EnvLAS, EnvConfigID},
	},
	V2: {
		spec:      profileV2,
		domain:    "cupel/measured-launch/v2",
		variables: []string{EnvCAS, EnvLAS, EnvConfigID, EnvGrant},
	},
}

// ParseVersion reads a stored version. None at all is the first, which was
// never written down.
func ParseVersion(s string) (Version, error) {
	if s == "" {
		return V1, nil
	}
	if _, ok := profiles[Version(s)]; !ok {
		return "", invalid(ruleLaunchProfile, "launch profile %.20q", s).Want("%s or %s", V1, V2).
			Fix("this program is older than what it reads: install the newer release again")
	}
	return Version(s), nil
}

// versionOf returns the version that a spec says it is of. One that says
// something else is held against the first, which it isn't either: the
// annotation is measured.
func versionOf(spec map[string]any) Version {
	v, _ := object(spec, "annotations")[annotation].(string)
	if _, ok := profiles[Version(v)]; ok {
		return Version(v)
	}
	return V1
}

// freeBinds are the mounts of the profile whose source is the node's to choose.
var freeBinds = []string{"/etc/resolv.conf", "/etc/hosts", SocketDir, LauncherPath}

// Spec returns the runtime spec of an instance of img by that version of the
// profile, as JSON, with every free field empty ([Fill] sets them).
func Spec(v Version, img ImageConfig) ([]byte, error) {
	v, err := ParseVersion(string(v))
	if err != nil {
		return nil, err
	}
	spec, err := parseObject(profiles[v].spec)
	if err != nil {
		return nil, fmt.Errorf("launch profile: %w", err)
	}

	args, err := launcherArgs(img)
	if err != nil {
		return nil, err
	}

	process := spec["process"].(map[string]any)
	process["args"] = args
	env := []any{}
	for _, name := range profiles[v].variables {
		env = append(env, name+"=")
	}
	process["env"] = env
	return append(canonical(nil, spec), '\n'), nil
}

// launcherArgs is the launcher's argv, which carries what the image says about
// its own process.
func launcherArgs(img ImageConfig) ([]any, error) {
	user, cwd := img.User, img.Cwd
	if user == "" {
		user = "0"
	}
	if cwd == "" {
		cwd = "/"
	}

	args := []any{LauncherPath, "run", "--user", user, "--cwd", cwd}
	for _, e := range img.Env {
		if i := strings.IndexByte(e, '='); i <= 0 {
			return nil, invalid(ruleImageConfig, "image environment %q", e).Want("NAME=VALUE")
		}
		args = append(args, "--env", e)
	}

	args = append(args, "--")
	for _, a := range slices.Concat(img.Entrypoint, img.Cmd) {
		args = append(args, a)
	}

	for _, a := range args {
		if strings.ContainsRune(a.(string), 0) {
			return nil, invalid(ruleImageConfig, "image argument %q: a zero byte", a)
		}
	}
	return args, nil
}

// Free is what the node may choose about a launch.
type Free struct {
	CASAddr, LASAddr, ConfigID string       // values of the host variables
	Grant                      secret.Value // the fourth, where the profile has it
	Root                       string       // the root's path, as the runtime wants it
	Hostname                   string
	CgroupsPath                string
	NetworkNamespace           string // path
	Memory                     int64  // bytes, > 0; memory and swap together are limited to it
	Pids                       int64  // 0: no limit
	CPUQuota, CPUPeriod        int64  // microseconds; 0: no limit
	CPUShares                  int64  // weight against others where CPU time is short; 0: the kernel's default
	// Sources of the bind mounts, on the node.
	ResolvConf, Hosts, SocketDir, Launcher string
}

// Fill returns specJSON (of [Spec]) with its free fields set.
func Fill(specJSON []byte, f Free) ([]byte, error) {
	spec, err := parseObject(specJSON)
	if err != nil {
		return nil, invalid(ruleLaunchSpec, "runtime spec: %w", err)
	}

	if f.Memory <= 0 {
		return nil, invalid(problem.RuleMemoryLimit, "no memory limit").Want("a limit over 0 bytes")
	}

	linux, process := object(spec, "linux"), object(spec, "process")
	resources := object(linux, "resources")
	if resources == nil || process == nil || object(spec, "root") == nil {
		return nil, invalid(ruleLaunchSpec, "runtime spec: not made by this profile")
	}

	values := map[string]string{
		EnvCAS:      f.CASAddr,
		EnvLAS:      f.LASAddr,
		EnvConfigID: f.ConfigID,
		EnvGrant:    string(f.Grant.Reveal()),
	}
	env := []any{}
	for _, name := range profiles[versionOf(spec)].variables {
		env = append(env, name+"="+values[name])
	}
	process["env"] = env

	object(spec, "root")["path"] = f.Root
	spec["hostname"] = f.Hostname
	linux["cgroupsPath"] = f.CgroupsPath

	if memory := object(resources, "memory"); memory != nil {
		memory["limit"], memory["swap"] = number(f.Memory), number(f.Memory)
	}

	resources["pids"] = map[string]any{"limit": number(f.Pids)}
	if f.CPUQuota > 0 {
		resources["cpu"] = map[string]any{"quota": number(f.CPUQuota), "period": number(f.CPUPeriod)}
	}

	if f.CPUShares > 0 {
		cpu := object(resources, "cpu")
		if cpu == nil {
			cpu = map[string]any{}
			resources["cpu"] = cpu
		}
		cpu["shares"] = number(f.CPUShares)
	}

	for ns := range objects(linux, "namespaces") {
		if ns["type"] == "network" {
			ns["path"] = f.NetworkNamespace
		}
	}

	sources := map[any]string{
		"/etc/resolv.conf": f.ResolvConf, "/etc/hosts": f.Hosts, SocketDir: f.SocketDir, LauncherPath: f.Launcher,
	}
	for m := range objects(spec, "mounts") {
		if source, ok := sources[m["destination"]]; ok {
			m["source"] = source
		}
	}
	return append(canonical(nil, spec), '\n'), nil
}

func number(n int64) json.Number { return json.Number(fmt.Sprint(n)) }
