package session

import (
	"strings"
	"testing"
)

func TestWrongHost(t *testing.T) {
	for name, why := range map[string]string{
		"example.org":                     "",
		"*.example.org":                   "",
		"xn--mnchen-3ya.de":               "",
		"_dns.example.org":                "",
		"10.1.2.3":                        "",
		"2001:db8::1":                     "",
		"1password.example.org":           "",
		"example.org.":                    "ends in a dot",
		"example.org:8080":                "has a port",
		"https://example.org":             "has a scheme",
		"example.org/app":                 "has a /",
		"[::1]":                           "has brackets",
		"10.1.2.3:80":                     "has a port",
		"a:b:c":                           "is no IP address",
		"*":                               "has a * that",
		"a.*.org":                         "has a * that",
		"a..b":                            "begins with a dot",
		".example.org":                    "begins with a dot",
		"-a.org":                          "begins or ends with -",
		"a-.org":                          "begins or ends with -",
		"a b":                             "has a blank",
		"a!b":                             "has a character",
		"":                                "is empty",
		"münchen.example":                 "has letters of other alphabets",
		"999.1.1.1":                       "as IP addresses do",
		"1.2.3":                           "as IP addresses do",
		"fe80::1%eth0":                    "has a zone",
		strings.Repeat("a", 64) + ".org":  "more than 63 characters",
		strings.Repeat("a.", 127) + "org": "more than the 253",
	} {
		wrong := WrongHost(name)
		switch {
		case wrong == nil && why != "", wrong != nil && why == "":
			t.Errorf("%q: %+v, want %q", name, wrong, why)
		case wrong != nil && (!strings.Contains(wrong.Why, why) || wrong.Mend == ""):
			t.Errorf("%q: %+v, want %q", name, wrong, why)
		}
	}
}

// What an earlier version took is read on, and warned of.
func TestHostsThatAreKept(t *testing.T) {
	text := func(dns string) []byte {
		return []byte(small + "secrets: [{name: k, kind: private-key}, {name: x, kind: x509, private_key: k, dns: '" + dns + "'}]\n")
	}
	for _, dns := range []string{"999.1.1.1", "1.2.3", "fe80::1%eth0"} {
		s, err := Parse(text(dns))
		if err != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "no client accepts") || strings.Contains(s.Warnings[0], dns) {
			t.Errorf("%s: %+v, %v", dns, s, err)
		}
	}
	if _, err := Parse(text("example.org.")); err == nil || !strings.Contains(err.Error(), "dns is a text of 12 characters and ends in a dot") {
		t.Error(err)
	}
}
