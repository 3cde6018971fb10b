package netcheck

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file finds out whether a firewall lets in the clients that its rules name: nobody
// but who wrote them knows whether others shall come in too.

var (
	ruleSource    = regexp.MustCompile(`\bsaddr [^!\s]|(?:^|\s)-s \S|--match-set \S+ src`)
	ruleNotSource = regexp.MustCompile(`\bsaddr != |! -s |! --match-set \S+ src`)
	ruleOwnSource = regexp.MustCompile(`(?:saddr|-s) (?:127\.|::1\b|fe80:)`)
)

// listsClients is a rule by which clients come in by their addresses: the one that ended
// the packet, or one that accepts; empty: there is none.
func (l *lab) listsClients(p *probe, s stop) string {
	if !p.users {
		return ""
	}
	if ruleNotSource.MatchString(s.rule) {
		return plainRule(s.rule)
	}

	for _, rule := range s.rules() {
		byAddress := ruleSource.MatchString(rule) && !ruleNotSource.MatchString(rule) && !ruleOwnSource.MatchString(rule)
		others := ruleAccepts.MatchString(rule) && !strings.Contains(rule, l.Subnet.String())
		if byAddress && others && begins(rule) && l.concerns(rule, packet{iif: l.v4.device(), oif: l.Bridge}) && l.namesPort(p, rule) {
			return plainRule(rule)
		}
	}

	return ""
}

// namesPort says that a rule names no port, or one of the app's.
func (l *lab) namesPort(p *probe, rule string) bool {
	return !ruleNamed.MatchString(rule) || slices.ContainsFunc(append([]uint16{p.to.Port()}, l.AppPorts...), func(port uint16) bool {
		return regexp.MustCompile(`\b` + strconv.Itoa(int(port)) + `\b`).MatchString(rule)
	})
}

// listed says that it isn't known whether whom such a rule keeps out shall come in.
func listed(one, text string) *cause {
	return &cause{unknown: true, text: fmt.Sprintf("not known: this machine's firewall lets in clients by their addresses, as by %q, and that may be all that shall come in. It stops others: %s", one, text)}
}
