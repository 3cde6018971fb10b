// Package pythonapp holds a promise of the apps that newcomers copy.
package pythonapp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/internal/testing/need"
)

// TestSilentClients: a client that connects and says nothing, as a browser does in
// advance, holds up nobody else, neither in the example nor in the tutorial's app.
func TestSilentClients(t *testing.T) {
	need.Programs(t, "python3")
	for name, text := range map[string]string{"example": example(t), "tutorial": board(t)} {
		t.Run(name, func(t *testing.T) {
			addr := start(t, text)
			for range 3 {
				silent, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = silent.Close() }()
			}
			client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the test's own app, over loopback
			}}
			r, err := client.Get("https://" + addr + "/")
			if err != nil {
				t.Fatalf("others wait: %v", err)
			}
			defer func() { _ = r.Body.Close() }()
			if body, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK {
				t.Errorf("status %d, %q, %v", r.StatusCode, body, err)
			}
		})
	}
}

func example(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("client-app.py")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// board is the one Python text of the tutorial.
func board(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(b), "\n```python\n")
	if len(parts) != 2 {
		t.Fatalf("the tutorial has %d Python texts, want one", len(parts)-1)
	}
	text, _, _ := strings.Cut(parts[1], "\n```\n")
	return text
}

// start runs an app with a certificate of the test's, and returns where it listens.
func start(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	_ = ln.Close()
	certificate(t, dir)
	text = strings.ReplaceAll(strings.ReplaceAll(text, "/run/cupel/tls", dir), "8080", port)
	app := filepath.Join(dir, "app.py")
	if err := os.WriteFile(app, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "python3", app)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			return addr
		}
		if time.Now().After(end) {
			t.Fatal(fmt.Errorf("the app doesn't listen: %w", err))
		}
	}
}

func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
