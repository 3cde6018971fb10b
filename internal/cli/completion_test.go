package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

// TestTabEndsWithoutAnAnswer: a manager, here or elsewhere, that takes connections and
// never says a word costs whoever presses Tab neither a message nor the shell.
func TestTabEndsWithoutAnAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes the connections
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	addr := silent.Addr().String()
	config, state := metManager(t, addr, ident.Sum([]byte("a certificate")))

	for _, provider := range []string{"", "https://" + addr} {
		env := map[string]string{"CUPEL_CONFIG": config, "CUPEL_STATE": state, "CUPEL_PROVIDER": provider}
		for _, call := range []string{"ps", "rm --app", "runtime build"} {
			var out, errs bytes.Buffer
			args := append(append([]string{"__complete"}, strings.Fields(call)...), "")
			code := Main(t.Context(), args, Process{strings.NewReader(""), &out, &errs, func(k string) string { return env[k] }})
			want := ":4\n"
			if call == "runtime build" {
				want = "puller\npython\n:4\n" // which nobody has to be asked for
			}
			if code != 0 || out.String() != want || strings.Contains(errs.String(), "cupel:") {
				t.Errorf("%q of %q: exit %d, %q, %q", call, provider, code, out.String(), errs.String())
			}
		}
	}
}

// metManager makes the folder of an owner who knows the manager at addr as a provider, and
// the state folder of an operator whose manager it is.
func metManager(t *testing.T, addr string, certificate ident.Digest) (config, state string) {
	t.Helper()
	config, state = t.TempDir(), t.TempDir()
	dir, err := home.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.KeyPair(t.Context(), time.Now); err != nil {
		t.Fatal(err)
	}
	err = dir.UpdateProviders(t.Context(), func(all home.Providers) error {
		all[addr] = home.Provider{Certificate: &certificate, OperatorKey: ident.KeyHash{1}, Since: time.Now()}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := json.Marshal(manager.Endpoint{Version: manager.Version, Address: addr, CertSHA256: certificate})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, client.EndpointFile), endpoint, 0o600); err != nil {
		t.Fatal(err)
	}
	return config, state
}

// TestTabOffersNoCommands: a shell puts a completion into the line that is run next. What
// a manager calls its apps, instances and runtimes is offered where such a thing can be
// called so, and nothing else; nor is what else was written into the owner's folder.
func TestTabOffersNoCommands(t *testing.T) {
	lies := []string{
		"x$(touch /tmp/x)", "x`id`", "x;id", "x&id", "x|id", "a b", "x>y", "x'y", `x"y`, `x\y`, "--state=/x", "-x", "", "~root", "x\ty", "x\nrm --app shop",
		"x\r", "x\x1b[2J", "x\u202ey", "_activeHelp_ run this", "*", "{a,b}", "!!", "x#y", "$HOME",
	}
	var apps []manager.App
	var instances []manager.Instance
	var images []manager.Runtime
	// An answer with such a name of an app or instance is refused as a whole.
	for _, name := range append(lies, "shop", "SHOP", "../../x", strings.Repeat("x", 1000)) {
		apps = append(apps, manager.App{Name: name})
		images = append(images, manager.Runtime{Name: name})
		instances = append(instances,
			manager.Instance{ID: name, App: "shop", Role: "app"},
			manager.Instance{ID: "i-1", App: name, Role: "app"}, // of one id bash would offer what the lines have in common
		)
	}
	mux := http.NewServeMux()
	for path, answer := range map[string]any{
		manager.PathInfo: manager.Info{Version: manager.Version, OperatorKey: ident.KeyHash{1}}, manager.PathApps: manager.AppList{Version: manager.Version, Apps: apps},
		manager.PathInstances: manager.InstanceList{Version: manager.Version, Instances: instances}, manager.PathRuntimes: manager.RuntimeList{Version: manager.Version, Runtimes: images},
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(answer) })
	}
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	addr := server.Listener.Addr().String()
	config, state := metManager(t, addr, ident.Sum(server.Certificate().Raw))
	dir, err := home.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		dir.UpdateSessions(t.Context(), func(all home.Sessions) error {
			for _, name := range append(lies, "shop") {
				all[ident.SessionName(name)] = home.SessionRecord{}
			}
			return nil
		}),
		dir.UpdateProviders(t.Context(), func(all home.Providers) error {
			for _, name := range lies {
				all[name] = home.Provider{OperatorKey: ident.KeyHash{1}}
			}
			return nil
		}))
	if err != nil {
		t.Fatal(err)
	}

	ours := []string{":4", "shop", "puller", "python", addr}
	offered := map[string]bool{}
	check := func(args ...string) {
		for _, provider := range []string{"", "https://" + addr} {
			env := map[string]string{"CUPEL_CONFIG": config, "CUPEL_STATE": state, "CUPEL_PROVIDER": provider}
			var out, errs bytes.Buffer
			if code := Main(t.Context(), append([]string{"__complete"}, args...), Process{strings.NewReader(""), &out, &errs, func(k string) string { return env[k] }}); code != 0 {
				t.Errorf("%q: exit %d: %s", args, code, errs.String())
			}
			for _, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
				if !slices.Contains(ours, line) {
					t.Errorf("%q offers %q", args, line)
				}
				offered[line] = true
			}
		}
	}
	eachCommand(func(c *cobra.Command) {
		if c.ValidArgsFunction != nil && c.Name() != "help" && c.Name() != "completion" {
			check(append(callOf(c), "")...)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if _, completes := c.GetFlagCompletionFunc(f.Name); completes && f.Name != "output" {
				check(append(callOf(c), "--"+f.Name, "")...)
			}
		})
	})
	for _, want := range ours {
		if !offered[want] {
			t.Errorf("nothing offers %q", want)
		}
	}

	if got := clean([]string{"a\tb c", "a\td", "e\tf", "$(g)\th", "i\tj\tk"}); !slices.Equal(got, []string{"a", "e\tf", "i"}) {
		t.Errorf("descriptions: %q", got)
	}
}
