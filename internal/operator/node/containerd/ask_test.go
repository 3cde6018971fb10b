package containerd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/internal/trusted/wire"
)

// askFromHost asks for evidence on the socket in dir, as this process.
func askFromHost(t *testing.T, dir string) string {
	t.Helper()
	// A short way to the socket, whose own path is too long.
	short := filepath.Join(t.TempDir(), "s")
	if err := os.Symlink(dir, short); err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(short, wire.Socket))
	}}}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(wire.QuoteRequest{Version: 1, ReportData: evidence.Data64{1}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Post("http://las"+wire.PathQuote, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// askAs runs the test's launcher as a process inside another container's
// control groups and asks on the socket in dir.
func askAs(t *testing.T, pid int, launcher, dir string) string {
	t.Helper()
	short := filepath.Join(t.TempDir(), "s")
	if err := os.Symlink(dir, short); err != nil {
		t.Fatal(err)
	}
	// Its root is the machine's, its control groups are the instance's: the
	// most that somebody who broke out of an instance could be.
	groups, err := os.ReadFile("/proc/" + itoa(pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, path, _ := strings.Cut(string(groups), ":memory:")
	path, _, _ = strings.Cut(path, "\n")
	procs := "/sys/fs/cgroup/memory" + path + "/cgroup.procs"
	if path == "" {
		_, path, _ = strings.Cut(string(groups), "0::")
		procs = "/sys/fs/cgroup" + strings.TrimSpace(path) + "/cgroup.procs"
	}
	cmd := exec.Command("/bin/sh", "-c", `echo $$ > "$1" && exec "$2" child "$3"`, "sh", procs, launcher, filepath.Join(short, wire.Socket))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func itoa(n int) string { return strconv.Itoa(n) }
