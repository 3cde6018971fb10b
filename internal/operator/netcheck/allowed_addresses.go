package netcheck

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// This file reads the addresses that a rule names, to find out whether it can let an
// instance out. What it can't read may be any address.

var (
	ruleFrom = regexp.MustCompile(`\bip saddr (!= |)(\{[^}]*\}|\S+)|(?:^|\s)(! |)-s (\S+)`)
	ruleTo   = regexp.MustCompile(`\bip daddr (!= |)(\{[^}]*\}|\S+)|(?:^|\s)(! |)-d (\S+)`)
	ruleIPv6 = regexp.MustCompile(`\bip6 |nfproto ipv6`)
)

// leadsOut says that a rule may be of what instances send to the world, which they do
// over IPv4 alone. One that names neither them nor their bridge is of some other network
// where the address that it leads to is in one: of containers, or at home.
func (l *lab) leadsOut(rule string) bool {
	if ruleIPv6.MatchString(rule) {
		return false
	}

	ours := addressesOf(l.Subnet)
	from := placeNamed(ruleFrom, rule)
	to := placeNamed(ruleTo, rule)

	if !from.some(ours.overlaps, ours.within) {
		return false
	}

	device := ruleIn.FindStringSubmatch(rule)
	theirs := from.list != nil && !from.others || device != nil && device[1]+device[2] == ""

	return to.some(func(a addresses) bool {
		return !a.within(ours) && (theirs || !isPrivateUse(a.first))
	}, func(addresses) bool { return false })
}

// addresses are those from the first to the last.
type addresses struct{ first, last netip.Addr }

func (a addresses) overlaps(b addresses) bool { return !a.last.Less(b.first) && !b.last.Less(a.first) }

func (a addresses) within(b addresses) bool { return !a.first.Less(b.first) && !b.last.Less(a.last) }

// addressesOf are all of a network.
func addressesOf(p netip.Prefix) addresses {
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		last[bit/8] |= 1 << (7 - bit%8)
	}

	to, _ := netip.AddrFromSlice(last)
	return addresses{p.Masked().Addr(), to}
}

// isPrivateUse says that an address is in no network but somebody's own: private (RFC 1918,
// RFC 4193), of this machine or its link, or of many (RFC 5771, RFC 4291 section 2.7).
func isPrivateUse(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || shared.Contains(a)
}

// shared are addresses behind a provider's translation (RFC 6598), which containers and
// VPNs have too.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// place is where packets that a rule is about come from, or go to. Without a list that
// is anywhere, or not known, as of a set with a name.
type place struct {
	list   []addresses
	others bool // it is about all addresses but those
}

// some says that the place holds some address that is meant: fits says so of a part of
// the list, and full that nothing that is meant is outside of a part.
func (p place) some(fits, full func(addresses) bool) bool {
	switch {
	case p.list == nil:
		return true
	case p.others:
		return !slices.ContainsFunc(p.list, full)
	}
	return slices.ContainsFunc(p.list, fits)
}

// placeNamed reads what a rule says of one of its ends.
func placeNamed(re *regexp.Regexp, rule string) place {
	m := re.FindStringSubmatch(rule)
	if m == nil {
		return place{}
	}

	p := place{others: m[1]+m[3] != ""}
	for one := range strings.SplitSeq(strings.Trim(m[2]+m[4], "{} "), ",") {
		a, ok := parseAddresses(strings.TrimSpace(one))
		if !ok {
			return place{}
		}
		p.list = append(p.list, a)
	}

	return p
}

// parseAddresses reads an address, a network, or FIRST-LAST.
func parseAddresses(s string) (addresses, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return addressesOf(p), true
	}

	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}

	from, err := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(last)

	return addresses{from, to}, err == nil && err2 == nil
}
