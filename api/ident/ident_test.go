package ident_test

import (
	"encoding/json"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
)

func TestParseSessionName(t *testing.T) {
	long := strings.Repeat("a", 128)
	cases := map[string]ident.SessionName{
		"shop": "shop", "/shop": "shop", "a/b/c": "a/b/c", "A-z_0.9~": "A-z_0.9~", long: ident.SessionName(long),
		"": "", "/": "", "//a": "", "a//b": "", "a/": "", "a b": "", "ä": "", ".": "", "a/..": "", "a\n": "", "a\x00": "", long + "a": "",
		strings.Repeat(long+"/", 3) + long: "", // 515 characters
	}
	for in, want := range cases {
		got, err := ident.ParseSessionName(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParseSessionName(%.40q) = %.40q, %v; want %.40q", in, got, err, want)
		}
	}
}

func TestParseConfigID(t *testing.T) {
	cases := map[string]ident.ServiceRef{
		"shop/web":          {Session: "shop", Service: "web"},
		"team/shop/web@123": {Session: "team/shop", Service: "web", OTP: "123"},
		"/shop/web":         {Session: "shop", Service: "web"},
		"":                  {}, "shop": {}, "/web": {}, "shop/": {}, "shop/w b": {}, "@1": {},
	}
	for in, want := range cases {
		got, err := ident.ParseServiceRef(in)
		if got != want || (err == nil) != (want != ident.ServiceRef{}) {
			t.Errorf("ParseServiceRef(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestHex(t *testing.T) {
	d := ident.Sum([]byte("x"))
	for _, s := range []string{d.String(), "sha256:" + d.String(), strings.ToUpper(d.String())} {
		if got, err := ident.ParseDigest(s); err != nil || got != d {
			t.Errorf("ParseDigest(%q) = %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "00", d.String() + "00", strings.Replace(d.String(), "2", "g", 1)} {
		if _, err := ident.ParseDigest(s); err == nil {
			t.Errorf("ParseDigest(%q): no error", s)
		}
		if _, err := ident.ParseMeasurement(s); err == nil {
			t.Errorf("ParseMeasurement(%q): no error", s)
		}
		if _, err := ident.ParseKeyHash(s); err == nil {
			t.Errorf("ParseKeyHash(%q): no error", s)
		}
	}
	type all struct {
		D ident.Digest
		M ident.Measurement
		K ident.KeyHash
	}
	in := all{d, ident.Measurement(d), ident.KeyHash(d)}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out all
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%s came back as %+v, %v", b, out, err)
	}
}

// FuzzParseConfigID: no panic; what is accepted reads back as itself.
func FuzzParseConfigID(f *testing.F) {
	for _, s := range []string{"shop/web", "/a/b/c@9", "a//b", "../x/y", "@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ident.ParseServiceRef(s)
		if err != nil {
			return
		}
		again, err := ident.ParseServiceRef(c.String())
		if err != nil || again.Session != c.Session || again.Service != c.Service {
			t.Errorf("%q reads as %+v, and then as %+v, %v", s, c, again, err)
		}
	})
}
