package cli

import (
	"testing"

	"cupel.dev/cupel/api/problem"
)

func TestProviderAddress(t *testing.T) {
	for text, want := range map[string]string{
		"https://provider.example.org":       "provider.example.org:5000",
		"HTTPS://Provider.Example.org:6000/": "provider.example.org:6000",
		" https://provider.example.org\n":    "provider.example.org:5000",
		"provider.example.org":               "provider.example.org:5000",
		"192.0.2.7:5001":                     "192.0.2.7:5001",
		"https://[2001:db8::1]":              "[2001:db8::1]:5000",
	} {
		if got, err := providerAddress(text); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "http://a", "https://", "https://a/b", "https://a?b", "https://a#b", "https://a:b", "https://a:0", "https://a:99999", "https://u:p@a", "ssh://a", "a b",
	} {
		if got, err := providerAddress(text); err == nil || problem.From(err).Rule != "provider_address" || problem.From(err).Mend == "" {
			t.Errorf("%q: %q, %v; want a refusal with a mend", text, got, err)
		}
	}
}

// TestSameHost: a port that was forgotten is remembered.
func TestSameHost(t *testing.T) {
	known := []string{"10.222.2.1:62000", "provider.example.org:5000"}
	for addr, want := range map[string]string{
		"10.222.2.1:5000": "10.222.2.1:62000", "provider.exmple.org:5000": "provider.example.org:5000", "192.0.2.7:5000": "",
	} {
		if got := sameHost(addr, known); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}

func TestCertified(t *testing.T) {
	for _, c := range []struct {
		names []string
		host  string
		want  bool
	}{
		{[]string{"localhost"}, "provider.example.org", false},
		{[]string{"localhost", "provider.example.org"}, "provider.example.org", true},
		{[]string{"*.example.org"}, "provider.example.org", true},
		{[]string{"192.0.2.7"}, "192.0.2.7", true},
		{[]string{"2001:db8::1"}, "2001:db8:0::1", true},
	} {
		if got := certified(c.names, c.host); got != c.want {
			t.Errorf("%v for %s: %v", c.names, c.host, got)
		}
	}
}
