package containerd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/las"
	"cupel.dev/cupel/internal/trusted/launch"
)

// The tests' runc is this program, which calls the machine's. So an instance can
// be one of an operator who wraps runc: the spec is edited before the container
// is made of it, and has its honest text again before anybody looks.
const (
	envRunc    = "CUPEL_TEST_RUNC"    // the machine's
	envWrapped = "CUPEL_TEST_WRAPPED" // folder: a file of an instance's name says what is edited
)

// beRunc puts this program in runc's place, for all that is started from here.
func beRunc(dir string) error {
	machines, err := exec.LookPath("runc")
	if err != nil {
		return nil // the tests that need one say so
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(self, filepath.Join(bin, "runc")); err != nil {
		return err
	}
	for name, value := range map[string]string{
		envRunc: machines, envWrapped: dir, "PATH": bin + ":" + os.Getenv("PATH"),
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

// wrapRunc is the wrapper. It returns runc's exit code.
func wrapRunc(args []string) int {
	restore, err := editBundle(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "wrapper:", err)
		return 1
	}
	cmd := exec.Command(os.Getenv(envRunc), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	restore()
	if err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "wrapper:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func editBundle(args []string) (restore func(), err error) {
	nothing := func() {}
	at := slices.Index(args, "--bundle")
	if !slices.Contains(args, "create") || at < 0 {
		return nothing, nil
	}
	order, err := os.ReadFile(filepath.Join(os.Getenv(envWrapped), args[len(args)-1]))
	if err != nil {
		return nothing, nil
	}
	file := filepath.Join(args[at+1], "config.json")
	honest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var spec map[string]any
	d := json.NewDecoder(bytes.NewReader(honest))
	d.UseNumber()
	if err := d.Decode(&spec); err != nil {
		return nil, err
	}
	wrapped[string(order)](spec)
	edited, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	return func() { _ = os.WriteFile(file, honest, 0o644) }, os.WriteFile(file, edited, 0o644)
}

func part(spec map[string]any, path ...string) map[string]any {
	for _, p := range path {
		spec = spec[p].(map[string]any)
	}
	return spec
}

func add(value any, key string, path ...string) func(map[string]any) {
	return func(spec map[string]any) {
		o := part(spec, path...)
		list, _ := o[key].([]any)
		o[key] = append(list, value)
	}
}

// wrapped is what the wrapper does to a spec.
var wrapped = map[string]func(spec map[string]any){
	"nothing":              func(map[string]any) {},
	"environment variable": add("LD_PRELOAD=/x.so", "env", "process"),
	"another address": func(s map[string]any) {
		part(s, "process")["env"].([]any)[0] = "CUPEL_CAS_ADDR=rogue:1"
	},
	"argument": func(s map[string]any) {
		args := part(s, "process")["args"].([]any)
		part(s, "process")["args"] = slices.Insert(slices.Clone(args), 2, any("--env"), any("LD_PRELOAD=/x.so"))
	},
	"folder":                         func(s map[string]any) { part(s, "process")["cwd"] = "/proc" },
	"no seccomp":                     func(s map[string]any) { delete(part(s, "linux"), "seccomp") },
	"bind mount":                     add(map[string]any{"destination": "/usr/bin/git", "type": "bind", "source": "/bin/true", "options": []any{"bind", "ro"}}, "mounts"),
	"a second one":                   add(map[string]any{"destination": "/etc/hosts", "type": "bind", "source": "/etc/hostname", "options": []any{"bind", "ro", "nosuid", "nodev", "noexec"}}, "mounts"),
	"bind mount in memory":           add(map[string]any{"destination": "/dev/git", "type": "bind", "source": "/bin/true", "options": []any{"bind", "ro"}}, "mounts"),
	"memory in the launcher's place": add(map[string]any{"destination": "/dev/.cupel/x", "type": "tmpfs", "source": "tmpfs", "options": []any{"nosuid", "nodev"}}, "mounts"),
	"memory over a place":            add(map[string]any{"destination": "/home", "type": "tmpfs", "source": "tmpfs"}, "mounts"),
	"capability": func(s map[string]any) {
		for _, set := range []string{"bounding", "effective", "permitted"} {
			add("CAP_SYS_PTRACE", set, "process", "capabilities")(s)
		}
	},
	"inheritable capability": add("CAP_KILL", "inheritable", "process", "capabilities"),
	"new privileges":         func(s map[string]any) { part(s, "process")["noNewPrivileges"] = false },
	"group":                  func(s map[string]any) { part(s, "process", "user")["additionalGids"] = []any{4} },
	"writable root":          func(s map[string]any) { part(s, "root")["readonly"] = false },
	"no masks":               func(s map[string]any) { part(s, "linux")["maskedPaths"] = []any{} },
	"writable kernel":        func(s map[string]any) { part(s, "linux")["readonlyPaths"] = []any{} },
	"machine's messages":     dropNamespace("ipc"),
	"machine's name":         func(s map[string]any) { dropNamespace("uts")(s); delete(s, "hostname") },
	"another network": func(s map[string]any) {
		for _, ns := range part(s, "linux")["namespaces"].([]any) {
			if ns := ns.(map[string]any); ns["type"] == "network" {
				delete(ns, "path")
			}
		}
	},
	"a cgroup namespace": add(map[string]any{"type": "cgroup"}, "namespaces", "linux"),
	"executable memory": func(s map[string]any) {
		for _, m := range s["mounts"].([]any) {
			if m := m.(map[string]any); m["destination"] == "/dev/shm" {
				m["options"] = []any{"mode=1777"}
			}
		}
	},
}

func dropNamespace(kind string) func(map[string]any) {
	return func(s map[string]any) {
		linux := part(s, "linux")
		linux["namespaces"] = slices.DeleteFunc(linux["namespaces"].([]any), func(ns any) bool { return ns.(map[string]any)["type"] == kind })
	}
}

// TestWrappedRunc: an operator whose runc edits the spec and puts its text back
// gets no evidence, although text and launcher are the honest ones.
func TestWrappedRunc(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer l.leave()
	img, err := launch.ParseImageConfig(l.config)
	if err != nil {
		t.Fatal(err)
	}
	want, err := launch.Expected(launch.Newest, img, l.node.LauncherDigest())
	if err != nil {
		t.Fatal(err)
	}
	for i, order := range slices.Sorted(maps.Keys(wrapped)) {
		t.Run(order, func(t *testing.T) {
			id := ident.AttemptID(fmt.Sprintf("i-w%d-%s", i, l.id))
			if err := os.WriteFile(filepath.Join(os.Getenv(envWrapped), string(id)), []byte(order), 0o600); err != nil {
				t.Fatal(err)
			}
			l.start(id, "idle", 0)
			l.status(id, running)
			got, err := l.runtime.Inspect(t.Context(), id)
			if order == "nothing" {
				if err != nil {
					t.Fatalf("refused as it is: %v", err)
				}
				measured, err := launch.Measure(got.Spec, got.Image, l.node.LauncherDigest())
				if err != nil || measured != want {
					t.Errorf("measured %v, %v; want %v", measured, err, want)
				}
				return
			}
			// A place to mount on that the image lacks is seen by itself.
			if err == nil || !strings.Contains(err.Error(), string(las.RuleProcess)) && !strings.Contains(err.Error(), "was put into its root") {
				t.Errorf("inspected without complaint: %v", err)
			}
		})
	}
}
