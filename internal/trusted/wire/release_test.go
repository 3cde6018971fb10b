package wire_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/hex"
	"testing"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestLaunchBinding holds L to its definition, spelt out: instances that run
// carry it, so it may never change.
func TestLaunchBinding(t *testing.T) {
	var cas ident.KeyHash
	for i := range cas {
		cas[i] = byte(i)
	}
	spelt := "\x00\x00\x00\x00\x00\x00\x00\x0fcupel/launch/v1" +
		"\x00\x00\x00\x00\x00\x00\x00\x20" + string(cas[:]) +
		"\x00\x00\x00\x00\x00\x00\x00\x06team/a" +
		"\x00\x00\x00\x00\x00\x00\x00\x03web"
	sum := sha256.Sum256([]byte(spelt))
	var want evidence.Data64
	copy(want[:], sum[:])
	if got := wire.LaunchBinding(cas, "team/a", "web"); got != want {
		t.Errorf("L = %s, want %s", got, want)
	}
	seen := map[evidence.Data64]string{}
	for name, l := range map[string]evidence.Data64{
		"another session": wire.LaunchBinding(cas, "team/b", "web"),
		"another service": wire.LaunchBinding(cas, "team/a", "api"),
		"another CAS":     wire.LaunchBinding(ident.KeyHash{1}, "team/a", "web"),
		"moved border":    wire.LaunchBinding(cas, "team/aw", "eb"),
		"itself":          want,
	} {
		if other, ok := seen[l]; ok {
			t.Errorf("%s and %s have the same L", name, other)
		}
		seen[l] = name
	}
}

func TestReportData(t *testing.T) {
	exporter, key := [32]byte{1}, ident.KeyHash{2}
	b := append([]byte("cupel/release/v1"), exporter[:]...)
	want := evidence.Data64(sha512.Sum512(append(b, key[:]...)))
	got := wire.ReportData(exporter, key)
	if got != want {
		t.Errorf("report data %s, want %s", got, want)
	}
	if got == wire.CASReportData(exporter, key) {
		t.Error("an instance's evidence could pass for a CAS's")
	}
	if got == wire.ReportData([32]byte{2}, ident.KeyHash{1}) {
		t.Error("exporter and key can be exchanged")
	}
}

func TestHeadMessage(t *testing.T) {
	h := owners.SignedHead{Seq: 7, Hash: ident.Digest{9}, Time: 11}
	base := owners.HeadMessage(h)
	for name, change := range map[string]func(*owners.SignedHead){
		"number": func(h *owners.SignedHead) { h.Seq++ },
		"hash":   func(h *owners.SignedHead) { h.Hash[31]++ },
		"time":   func(h *owners.SignedHead) { h.Time++ },
	} {
		c := h
		change(&c)
		if owners.HeadMessage(c) == base {
			t.Errorf("the %s is not signed", name)
		}
	}
	h.Signature = []byte("anything")
	if owners.HeadMessage(h) != base {
		t.Errorf("the message covers its own signature: %s", hex.EncodeToString(base[:]))
	}
}

// TestExporterWantsTLS13: before 1.3 an exporter may not be unique to the connection.
func TestExporterWantsTLS13(t *testing.T) {
	for name, cs := range map[string]*tls.ConnectionState{"no TLS": nil, "1.2": {Version: tls.VersionTLS12}} {
		if _, err := wire.Exporter(cs); err == nil {
			t.Errorf("%s: a channel binding", name)
		}
	}
}
