package containerd_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/trusted/launch"
)

// tampering is a runtime in the hands of an operator who changes the spec on
// its way to the low-level runtime.
type tampering struct {
	node.Runtime
	edit func(spec map[string]any)
}

func (h *tampering) Start(ctx context.Context, c node.Container) error {
	var spec map[string]any
	if err := json.Unmarshal(c.Spec, &spec); err != nil {
		return err
	}
	h.edit(spec)
	var err error
	if c.Spec, err = json.Marshal(spec); err != nil {
		return err
	}
	return h.Runtime.Start(ctx, c)
}

// TestTamperedLaunches: whatever the operator changes about a launch that still
// starts, the evidence carries another measurement.
func TestTamperedLaunches(t *testing.T) {
	m := newMachine(t)
	file := filepath.Join(t.TempDir(), "evil")
	if err := os.WriteFile(file, []byte("evil"), 0o755); err != nil {
		t.Fatal(err)
	}
	hook, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+"-hook", hook, 0o755); err != nil {
		t.Fatal(err)
	}
	// It does the same and is another file.
	other := filepath.Join(t.TempDir(), "launcher")
	b, err := os.ReadFile(m.launcher)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, append(b, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	h := &tampering{edit: func(map[string]any) {}}
	m.wrap = func(r node.Runtime) node.Runtime {
		h.Runtime = r
		return h
	}
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
	bind := func(dest string) func(map[string]any) {
		return func(s map[string]any) {
			s["mounts"] = append(s["mounts"].([]any), map[string]any{
				"destination": dest, "type": "bind", "source": file, "options": []string{"bind", "ro"}})
		}
	}
	env := func(v string) func(map[string]any) {
		return func(s map[string]any) {
			p := s["process"].(map[string]any)
			p["env"] = append(p["env"].([]any), v)
		}
	}
	for i, c := range []struct {
		name string
		same bool
		edit func(map[string]any)
	}{
		{"nothing", true, func(map[string]any) {}},
		{"bind mount over git", false, bind("/usr/bin/git")},
		{"ld.so.preload", false, bind("/etc/ld.so.preload")},
		{"LD_PRELOAD", false, env("LD_PRELOAD=/x.so")},
		{"GIT_SSL_NO_VERIFY", false, env("GIT_SSL_NO_VERIFY=1")},
		{"entrypoint", false, func(s map[string]any) {
			args := s["process"].(map[string]any)["args"].([]any)
			args[len(args)-1] = "/bin/sh"
		}},
		{"writable root", false, func(s map[string]any) { s["root"].(map[string]any)["readonly"] = false }},
		{"hook", false, func(s map[string]any) {
			s["hooks"] = map[string]any{"createRuntime": []any{map[string]any{"path": file + "-hook"}}}
		}},
		{"another launcher", false, func(s map[string]any) {
			for _, m := range s["mounts"].([]any) {
				if m := m.(map[string]any); m["destination"] == launch.LauncherPath {
					m["source"] = other
				}
			}
		}},
		{"seccomp off", false, func(s map[string]any) { delete(s["linux"].(map[string]any), "seccomp") }},
		{"host's processes", false, func(s map[string]any) {
			linux := s["linux"].(map[string]any)
			linux["maskedPaths"] = []string{}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.edit = c.edit
			id := ident.AttemptID("i-t" + string(rune('a'+i)))
			l.start(id, "quote", 0)
			l.status(id, running)
			lines := l.output(id, 2)
			quote, err := hex.DecodeString(strings.TrimPrefix(lines[1], "launcher: quote "))
			if err != nil {
				t.Fatalf("the launcher got %q", lines[1])
			}
			if got := ident.Measurement(quote[48+64 : 48+96]); (got == want) != c.same {
				t.Errorf("measurement %v; the unchanged launch has %v", got, want)
			}
		})
	}
	t.Run("file put into the root", func(t *testing.T) {
		h.edit = func(map[string]any) {}
		l.start("i-upper", "idle", 0)
		l.status("i-upper", running)
		mounts, err := os.ReadFile("/proc/" + itoa(pidOf(t, l, "i-upper")) + "/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		_, upper, _ := strings.Cut(string(mounts), "upperdir=")
		upper, _, _ = strings.Cut(upper, ",")
		if err := os.WriteFile(filepath.Join(upper, "evil"), []byte("evil"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := l.runtime.Inspect(t.Context(), "i-upper"); err == nil || !strings.Contains(err.Error(), "/evil was put into its root") {
			t.Errorf("inspected without complaint: %v", err)
		}
	})
}
