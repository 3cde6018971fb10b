package session

import (
	"net/netip"
	"regexp"
	"strings"
)

// Wrong is what is wrong with a text. Neither part quotes it.
type Wrong struct {
	Why  string // behind the text's name, as in "dns ends in a dot"
	Mend string

	// Kept is a text that sessions hold from the time when it was taken for right: they
	// are read on.
	Kept bool
}

var (
	dnsLabel  = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	digits    = regexp.MustCompile(`^[0-9]+$`)
	withPort  = regexp.MustCompile(`^[^:]*:[0-9]*$`)
	wildcard  = "*."
	otherHost = Wrong{Why: "has a character that neither a DNS name nor an IP address has", Mend: "give the name alone, of letters, digits, - and dots"}
)

// WrongHost says what keeps a text from being the name of a host in a certificate: a
// DNS name, of which the first label may be a *, or an IP address. It is nil if nothing
// does.
func WrongHost(name string) *Wrong {
	if ip, err := netip.ParseAddr(name); err == nil {
		if ip.Zone() != "" {
			return &Wrong{"has a zone behind the IP address, which no certificate holds", "leave the % and what stands behind it out", true}
		}
		return nil
	}

	switch {
	case name == "":
		return &Wrong{Why: "is empty", Mend: "give a name, or leave it out"}
	case strings.Contains(name, "://"):
		return &Wrong{Why: "has a scheme before the name", Mend: "give the name alone, without scheme and port"}
	case strings.ContainsAny(name, "/"):
		return &Wrong{Why: "has a / in it", Mend: "give the name alone, without path; an IP address without the length of its network"}
	case strings.ContainsAny(name, "[]"):
		return &Wrong{Why: "has brackets", Mend: "give an IP address without brackets and port"}
	case withPort.MatchString(name):
		return &Wrong{Why: "has a port behind the name", Mend: "give the name alone: a certificate is for every port"}
	case strings.Contains(name, ":"):
		return &Wrong{Why: "has colons and is no IP address", Mend: "give the name alone, or an address of IPv6 as 2001:db8::1"}
	case strings.ContainsFunc(name, func(r rune) bool { return r > '~' }):
		return &Wrong{Why: "has letters of other alphabets", Mend: "give the name in the form that certificates have, such as xn--mnchen-3ya.example"}
	case strings.HasSuffix(name, "."):
		return &Wrong{Why: "ends in a dot", Mend: "leave the dot at its end out: no certificate has it"}
	case strings.ContainsAny(name, " ,"):
		return &Wrong{Why: "is several names, or has a blank", Mend: "give each name by itself"}
	case len(name) > maxHost:
		return &Wrong{Why: "has more than the 253 characters that a DNS name can have", Mend: "give a shorter name"}
	}

	return wrongLabels(strings.Split(strings.TrimPrefix(name, wildcard), "."))
}

// maxHost and maxLabel are the most characters of a DNS name, and of each of its labels
// (RFC 1035, section 2.3.4).
const (
	maxHost  = 253
	maxLabel = 63
)

// wrongLabels is WrongHost of the labels of a DNS name.
func wrongLabels(labels []string) *Wrong {
	for _, label := range labels {
		switch {
		case label == "":
			return &Wrong{Why: "begins with a dot, or has two dots side by side", Mend: "write one dot between each two parts of the name"}
		case strings.Contains(label, "*"):
			return &Wrong{Why: "has a * that is not the whole first part of a name", Mend: "write the * as the first part of several, as in *.example.org"}
		case !dnsLabel.MatchString(label):
			return &otherHost
		case strings.HasPrefix(label, "-"), strings.HasSuffix(label, "-"):
			return &Wrong{Why: "has a part that begins or ends with -", Mend: "write each part of the name with a letter or digit at both ends"}
		case len(label) > maxLabel:
			return &Wrong{Why: "has more than 63 characters between two dots", Mend: "give a name with shorter parts"}
		}
	}

	if digits.MatchString(labels[len(labels)-1]) {
		return &Wrong{"ends in a number as IP addresses do, and is none", "give an address of IPv4 as four numbers from 0 to 255, or a name that ends in letters", true}
	}

	return nil
}
