package cli

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/owner"
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
	config, state := t.TempDir(), t.TempDir()
	dir, err := owner.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Identity(t.Context(), time.Now); err != nil {
		t.Fatal(err)
	}
	certificate := ident.Sum([]byte("a certificate"))
	err = dir.UpdateProviders(t.Context(), func(all owner.Providers) error {
		all[addr] = owner.Provider{Certificate: &certificate, OperatorKey: ident.KeyHash{1}, Since: time.Now()}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := json.Marshal(manager.Endpoint{Version: manager.Version, Address: addr, CertSHA256: certificate})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, manager.EndpointFile), endpoint, 0o600); err != nil {
		t.Fatal(err)
	}

	for _, provider := range []string{"", "https://" + addr} {
		env := map[string]string{"CUPEL_CONFIG": config, "CUPEL_STATE": state, "CUPEL_PROVIDER": provider}
		for _, call := range []string{"ps", "rm --app", "runtime build"} {
			var out, errs bytes.Buffer
			args := append(append([]string{"__complete"}, strings.Fields(call)...), "")
			code := Main(t.Context(), args, strings.NewReader(""), &out, &errs, func(k string) string { return env[k] })
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
