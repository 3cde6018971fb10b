package client_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/testing/castest"
)

// outsideSession is the session that the program in testdata/outside creates.
const outsideSession = `version: "0.3"
name: outside-app
services:
  - name: app
    image_name: app
    mrenclaves: [2200000000000000000000000000000000000000000000000000000000000000]
    command: /usr/bin/app
    pwd: /
images:
  - name: app
`

// TestOutside: a module that isn't this one builds with what is public, and works against a
// CAS: it attests it under a simulated root that it names, creates a session, lists
// instances, verifies the log, and asks a manager.
func TestOutside(t *testing.T) {
	program := buildOutside(t)
	cas := castest.Start(t, castest.Options{})
	address, certificate := fakeManager(t)
	text := filepath.Join(t.TempDir(), "session.yml")
	if err := os.WriteFile(text, []byte(outsideSession), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"-cas", cas.Owners, "-code", castest.CASMeasurement.String(), "-session", text, "-name", "outside-app",
		"-manager", address, "-manager-certificate", certificate.String(),
	}

	out, err := exec.CommandContext(t.Context(), program, append(args, "-simulation-root", cas.Root().String())...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"attested " + castest.CASMeasurement.String() + ", simulated: true\n", "rule measurement: ", ": true\n", "session ",
		"0 instances at the CAS\n", "log verified to entry ", ": 1 session\n", "the operator says: i1 of shop is running\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}

	// Without that root it refuses the same CAS, and leaves with the code of the refusal.
	out, err = exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err == nil || !bytes.HasPrefix(out, []byte("simulation_root: ")) {
		t.Errorf("without the simulated root: %v\n%s", err, out)
	}
}

// buildOutside builds the program with a go.mod of its own, as anybody else's would be.
func buildOutside(t *testing.T) string {
	t.Helper()
	folder := filepath.Join("testdata", "outside")
	mod, err := os.ReadFile(filepath.Join(folder, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir() // go.sum is written beside the go.mod that is used
	copied := filepath.Join(scratch, "go.mod")
	if err := os.WriteFile(copied, mod, 0o600); err != nil {
		t.Fatal(err)
	}

	program := filepath.Join(scratch, "outside")
	build := exec.CommandContext(t.Context(), "go", "build", "-modfile="+copied, "-o", program, ".")
	build.Dir = folder
	build.Env = append(os.Environ(), "GOFLAGS=-mod=mod -trimpath", "GOWORK=off", "GOPROXY=off", "GOSUMDB=off", "GONOSUMDB=*")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// fakeManager answers with one instance to whoever asks for the list of them.
func fakeManager(t *testing.T) (address string, certificate ident.Digest) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != manager.PathInstances {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"version":1,"instances":[{"id":"i1","app":"shop","app_id":"a1","state":"running"}]}`)
	}))
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), ident.Sum(s.Certificate().Raw)
}
