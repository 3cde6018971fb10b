package owner

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// CheckSessionName refuses a name that no certificate of the session's can hold: each
// one names its instance as cupel://SESSION/SERVICE/INSTANCE, and there the first
// element stands where a host does. Sessions that have such a name can still be read
// and removed.
func CheckSessionName(name ident.SessionName) error {
	host, _, _ := strings.Cut(string(name), "/")
	if !slices.Contains(strings.Split(host, "."), "") {
		return nil
	}
	return problem.New(problem.Invalid, "session_name", "the session's name is %q, and its certificates can't hold it: a dot is at the beginning or the end of %q, or two are side by side", name, host).
		Want("as the first element one of A-Z a-z 0-9 _ - . ~ in which each dot is between two other characters, such as my-app or my.app").
		Fix("create the session under another name, with --name")
}

// checkDNS refuses what a session can't have as a name in the app's certificate, by what
// is wrong with it.
func checkDNS(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	refuse := func(why, mend string) error {
		return problem.New(problem.Invalid, "template_input", "--dns is %.100q: %s", name, why).
			Want("a DNS name or an IP address").Fix("%s", mend)
	}
	switch {
	case name == "":
		return refuse("it is empty", "give --dns with a name, or leave it out: then it is localhost")
	case strings.ContainsFunc(name, func(r rune) bool { return r > '~' }):
		return refuse("it has letters of other alphabets", "give it in the form that certificates have, such as xn--mnchen-3ya.example")
	case strings.ContainsAny(name, "/:[]"):
		return refuse("it is no name alone", "give --dns with the name or address alone, without scheme, port, path and brackets")
	case strings.ContainsAny(name, " ,"):
		return refuse("it is several names, or has a blank", "give --dns once for each name")
	case len(name) > maxDNS:
		return refuse(fmt.Sprintf("it has %d characters", len(name)), fmt.Sprintf("give a name of at most %d characters", maxDNS))
	}
	for i, label := range strings.Split(name, ".") {
		switch {
		case label == "":
			return refuse("a dot is at its beginning or its end, or two are side by side", "leave that dot out")
		case len(label) > maxLabel:
			return refuse(fmt.Sprintf("%.20q… has %d characters", label, len(label)), fmt.Sprintf("give a name with at most %d characters between two dots", maxLabel))
		case label == "*" && i == 0 && name != "*":
		case strings.Contains(label, "*"):
			return refuse("a * stands for the whole first part of a name, and nothing else", "give a name such as *.example.org")
		case strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-"):
			return refuse(fmt.Sprintf("%q begins or ends with a hyphen", label), "give a name whose parts begin and end with a letter or digit")
		case strings.ContainsFunc(label, func(r rune) bool { return !strings.ContainsRune(dnsCharacters, r) }):
			return refuse(fmt.Sprintf("%q has a character that no name has", label), "give a name of A-Z a-z 0-9 - _ and dots")
		}
	}
	return nil
}

// Bounds of a DNS name (RFC 1035, section 2.3.4) and what a session takes in one.
const (
	maxDNS        = 253
	maxLabel      = 63
	dnsCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)
