package containerd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/collect"
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
		return net.Dial("unix", filepath.Join(short, collect.Socket))
	}}}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(collect.QuoteRequest{Version: 1, ReportData: attest.Data64{1}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Post("http://las"+collect.PathQuote, "application/json", bytes.NewReader(body))
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
