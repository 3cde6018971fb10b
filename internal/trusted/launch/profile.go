package launch

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// profileV1 is launch profile v1. Its measured part never changes: a change is
// a new file, a new version and a new domain.
//
//go:embed profile-v1.json
var profileV1 []byte

// freeBinds are the mounts of the profile whose source is the node's to choose.
var freeBinds = []string{"/etc/resolv.conf", "/etc/hosts", SocketDir, LauncherPath}

// hostVariables are the launcher's environment: the names are measured, in
// this order, the values are free.
var hostVariables = []string{EnvCAS, EnvLAS, EnvConfigID}

// Spec returns the runtime spec of an instance of img, as JSON, with every
// free field empty ([Fill] sets them).
func Spec(img ImageConfig) ([]byte, error) {
	spec, err := parseObject(profileV1)
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
	for _, name := range hostVariables {
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
			return nil, invalid("image_config", "image environment %q", e).Want("NAME=VALUE")
		}
		args = append(args, "--env", e)
	}
	args = append(args, "--")
	for _, a := range slices.Concat(img.Entrypoint, img.Cmd) {
		args = append(args, a)
	}
	for _, a := range args {
		if strings.ContainsRune(a.(string), 0) {
			return nil, invalid("image_config", "image argument %q: a zero byte", a)
		}
	}
	return args, nil
}

// Free is what the node may choose about a launch.
type Free struct {
	CASAddr, LASAddr, ConfigID string // values of the host variables
	Root                       string // the root's path, as the runtime wants it
	Hostname                   string
	CgroupsPath                string
	NetworkNamespace           string // path
	Memory                     int64  // bytes, > 0; memory and swap together are limited to it
	Pids                       int64  // 0: no limit
	CPUQuota, CPUPeriod        int64  // microseconds; 0: no limit
	// Sources of the bind mounts, on the node.
	ResolvConf, Hosts, SocketDir, Launcher string
}

// Fill returns specJSON (of [Spec]) with its free fields set.
func Fill(specJSON []byte, f Free) ([]byte, error) {
	spec, err := parseObject(specJSON)
	if err != nil {
		return nil, invalid("launch_spec", "runtime spec: %w", err)
	}
	if f.Memory <= 0 {
		return nil, invalid("memory_limit", "no memory limit").Want("a limit over 0 bytes")
	}
	linux, process := object(spec, "linux"), object(spec, "process")
	resources := object(linux, "resources")
	if resources == nil || process == nil || object(spec, "root") == nil {
		return nil, invalid("launch_spec", "runtime spec: not made by this profile")
	}
	process["env"] = []any{EnvCAS + "=" + f.CASAddr, EnvLAS + "=" + f.LASAddr, EnvConfigID + "=" + f.ConfigID}
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
