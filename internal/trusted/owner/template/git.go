package template

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"cupel.dev/cupel/api/problem"
)

// This file says which inputs of a pull can be used. The puller (runtimes/puller.yml)
// has the same rules inside, and testdata/pull_inputs.json holds both to them.

// gitHost and gitPort are what a server is called in an address.
const (
	gitHost = `([A-Za-z0-9._~%\x{80}-\x{10ffff}-]+|\[[0-9A-Fa-f:.]+\])`
	gitPort = `:([0-9]{1,5})`
)

var (
	schemeForm     = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*)://(.*)$`)
	portedForm     = regexp.MustCompile(`^[^/@:]+` + gitPort + `/`)
	scpForm        = regexp.MustCompile(`^[^/]*:`)
	passwordForm   = regexp.MustCompile(`^[^/]*:[^/]*@`)
	repositoryForm = regexp.MustCompile(`^(?:[^/@?#]+@)?` + gitHost + `(?:` + gitPort + `)?/[^?#]*[^/?#][^?#]*$`)
	tokenForm      = regexp.MustCompile(`^(?:(?:gh[opusr]_|github_pat_|gl(?:pat|dt|oas|rt|cbt|ptt|ft|soat|imt|agent)-|ATBB|ATCTT3|ATATT3)[A-Za-z0-9_=.-]{12,}|[0-9a-f]{40})$`)
	keyForm        = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`)
	proxyForm      = regexp.MustCompile(`(?i)^(?:(?:https?|socks5h?)://)?(?:[^/@\s]*@)?` + gitHost + gitPort + `/?$`)
)

const repositoryWant = "https://HOST/PATH, or https://USER@HOST/PATH"

// CheckRepository refuses what can't be the address of a repository that is
// fetched with a token. It repeats nothing of it.
func CheckRepository(s string) error {
	refuse := func(mend, format string, args ...any) error {
		return problem.New(problem.Invalid, ruleGitRepository, format, args...).Want(repositoryWant).Fix("%s", mend)
	}

	const give = "give the address that 'git clone' takes over HTTPS, as " + VarRepo
	if err := oneLine(s, ruleGitRepository, "repository's address", VarRepo); err != nil {
		return err
	}

	if strings.HasPrefix(s, "git ") {
		return refuse("give the address alone, which begins with https://", "the repository's address has a command of git's before it")
	}
	if strings.Contains(s, " ") {
		return refuse("write a blank in the address as %20", "the repository's address holds a blank")
	}
	if strings.HasPrefix(s, "<") || strings.ContainsAny(s[:1], "'\"`") {
		return refuse("give the address alone, without what stands around it", "the repository's address begins with a quote or a <")
	}

	const ssh = "the repository has an address for ssh, where a token opens nothing"
	m := schemeForm.FindStringSubmatch(s)
	switch {
	case m == nil && portedForm.MatchString(s):
		return refuse("put https:// before it", "the repository's address does not begin with https://, but with a host and a port")
	case m == nil && scpForm.MatchString(s):
		return refuse(give, ssh)
	case m == nil:
		return refuse(give, "the repository's address does not begin with https://")
	}

	switch scheme := strings.ToLower(m[1]); {
	case scheme == "ssh":
		return refuse(give, ssh)
	case scheme == "http":
		return refuse(give, "the repository's address begins with http://: the token would travel in the clear")
	case scheme != "https":
		return refuse(give, "the repository's address does not begin with https://")
	case passwordForm.MatchString(m[2]):
		return refuse("give the token as "+VarToken+": an address ends up in places where it can be read", "the repository's address holds a password")
	}

	server, _, _ := strings.Cut(m[2], "/")
	user, _, _ := strings.Cut(server, "@")
	switch {
	case strings.Count(server, "@") > 1:
		return refuse("write the @ in the user name as %40, or give the user name with --git-user and the address without it", "the user name in the repository's address holds an @")
	case tokenForm.MatchString(user):
		return refuse("give the token as "+VarToken+" and take it out of the address, which ends up in places where it can be read", "the repository's address holds a token in the place of a user name")
	}

	address := repositoryForm.FindStringSubmatch(m[2])
	if address == nil {
		return refuse(give, "the repository has no such address: a host, a path behind it, and no ? or #")
	}

	if foreign(address[1]) {
		return refuse(certificateForm, "the repository's address has a host with letters of other alphabets")
	}

	if why := unreachable(address[1], address[2]); why != "" {
		return refuse("give the server's name, and the port that it listens at", "the repository's address %s", why)
	}

	if loopback(address[1]) {
		return refuse("give the server's name; for the machine that the instance runs on: host.cupel.internal", "the repository's address leads to the machine itself that asks for it: there that is the instance")
	}

	return nil
}

// certificateForm is how to write the name of a host that people write in another alphabet.
const certificateForm = "give the host in the form that certificates have, such as xn--mnchen-3ya.example"

// foreign reports whether a host is not in that form: the puller asks for no other.
func foreign(host string) bool {
	return strings.ContainsFunc(host, func(r rune) bool { return r >= utf8.RuneSelf })
}

// unreachable says why no instance comes to a host and a port, if none can.
func unreachable(host, port string) string {
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
		return "has no port: ports are from 1 to 65535"
	}

	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err == nil && ip.Is6() && !loopback(host) {
		return "is one of IPv6, and instances have IPv4 alone"
	}

	return ""
}

// loopback reports whether a host is whichever machine asks for it.
func loopback(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") ||
		err == nil && (ip.Unmap().IsLoopback() || ip.Unmap().IsUnspecified())
}

// HasUser reports whether the address names the user whom the token is of.
func HasUser(repository string) bool {
	m := schemeForm.FindStringSubmatch(repository)
	return m != nil && strings.Contains(strings.SplitN(m[2], "/", 2)[0], "@")
}

// CheckToken refuses what no server can have given as a token.
func CheckToken(s string) error { return oneLine(s, ruleAccessToken, "access token", VarToken) }

// CheckUser refuses what can't be the user name beside a token.
func CheckUser(s string) error {
	if err := oneLine(s, problem.RuleGitUser, "user name", VarUser); err != nil {
		return err
	}

	if strings.Contains(s, ":") {
		return problem.New(problem.Invalid, problem.RuleGitUser, "the user name holds a colon, which servers take for the one before the token").
			Want("any characters but : and control characters").Fix("give --git-user with the name alone")
	}

	if tokenForm.MatchString(s) {
		return problem.New(problem.Invalid, problem.RuleGitUser, "the user name is a token").
			Want("the name that the server wants beside the token").Fix("give the token as %s, and --git-user with a name, or not at all", VarToken)
	}

	return nil
}

// HasPassword reports whether the address of a proxy holds a password.
func HasPassword(proxy string) bool {
	_, after, scheme := strings.Cut(proxy, "://")
	if !scheme {
		after = proxy
	}

	who, _, ok := strings.Cut(after, "@")
	return ok && strings.Contains(who, ":")
}

// CheckProxy refuses what can't be the address of a proxy. It may hold a
// password, and so nothing of it is repeated.
func CheckProxy(s string) error {
	if err := oneLine(s, ruleGitProxy, "proxy's address", VarProxy); err != nil {
		return err
	}

	const want = "[http://][USER:PASSWORD@]HOST:PORT; also https://, socks5:// and socks5h://"
	address := proxyForm.FindStringSubmatch(s)
	if address == nil {
		return problem.New(problem.Invalid, ruleGitProxy, "the proxy has no such address, with a host and a port").Want(want).
			Fix("give --proxy with such an address; write @ / and : in a user name or password as %%40 %%2F and %%3A")
	}

	if foreign(address[1]) {
		return problem.New(problem.Invalid, ruleGitProxy, "the proxy's address has a host with letters of other alphabets").Want(want).Fix("%s", certificateForm)
	}

	if why := unreachable(address[1], address[2]); why != "" {
		return problem.New(problem.Invalid, ruleGitProxy, "the proxy's address %s", why).Want(want).
			Fix("give --proxy with the proxy's name, and the port that it listens at")
	}

	if loopback(address[1]) {
		return problem.New(problem.Invalid, ruleGitProxy, "the proxy's address leads to the machine itself that asks for it: there that is the instance").Want(want).
			Fix("give --proxy with the proxy's name; for the machine that the instance runs on: host.cupel.internal")
	}

	return nil
}

// CheckAuthorities refuses what isn't certificates of authorities in PEM. Empty
// stands for the puller's own bundle.
func CheckAuthorities(text []byte) error {
	refuse := func(format string, args ...any) *problem.Error {
		return problem.New(problem.Invalid, problem.RuleGitCA, "the value of "+VarCA+" "+format, args...).
			Want("the authority's certificates in PEM, each from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----, and no key").
			Fix("give the file with the authority's certificates, with an @ before its name: -e %s=@FILE", VarCA)
	}

	if len(text) == 0 {
		return nil
	}

	if _, err := x509.ParseCertificate(text); err == nil {
		return refuse("is a certificate in DER, not in PEM").
			Fix("convert it: openssl x509 -inform der -in FILE -out ca.pem; then give -e %s=@ca.pem", VarCA)
	}

	if marked(text) {
		return refuse("begins with a byte order mark").Fix("save the file as UTF-8 without a mark")
	}

	if keyForm.Match(text) {
		return refuse("holds a private key, which nobody but the authority may have").Fix("take the key out of the file, and give it with the certificates alone")
	}

	found := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		found++
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return refuse("holds a certificate, number %d in it, that can't be read: %w", found, err)
		}
	}

	begun := bytes.Count(text, []byte("-----BEGIN CERTIFICATE-----"))
	if begun == 0 {
		return refuse("is no certificate in PEM")
	}

	if found < begun {
		return refuse("holds %d certificates of which %d can be read: one is cut off, or not at the beginning of a line", begun, found)
	}

	return nil
}

// CheckRef refuses what git allows no branch or tag to be called (see
// git-check-ref-format), and what would look like an option.
func CheckRef(s string) error {
	const want = "a branch, a tag or a full commit id, without blanks, control characters, ~ ^ : ? * [ \\ .. @{ and //; " +
		"no part of it begins with a dot or ends in .lock, it ends in no dot, and begins with no -"

	bad := s == "" || s == "@" || !utf8.ValidString(s) || len(s) > 256 || s[0] == '-' ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`~^:?*[\`, r) }) ||
		strings.Contains(s, "..") || strings.Contains(s, "@{") || strings.HasSuffix(s, ".")

	for _, part := range strings.Split(s, "/") {
		bad = bad || part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock")
	}

	if bad {
		return problem.New(problem.Invalid, problem.RuleTemplateInput, "the ref is %.100q", s).Want(want).Fix("give --ref with the name as 'git branch' or 'git tag' shows it")
	}

	return nil
}

// oneLine refuses what is no single line of text.
func oneLine(s string, rule problem.Rule, what, variable string) error {
	refuse := func(format string, args ...any) *problem.Error {
		return problem.New(problem.Invalid, rule, format, args...).Want("one line of text in UTF-8")
	}

	switch {
	case s == "":
		return refuse("the %s is empty", what).Fix("give -e %s=@FILE, or another value", variable)
	case marked([]byte(s)):
		return refuse("the %s begins with a byte order mark", what).Fix("save the file as UTF-8 without a mark")
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return refuse("the %s has more than one line, or holds control characters", what).Fix("give the file that holds it and nothing else")
	case strings.TrimSpace(s) != s:
		return refuse("the %s begins or ends with a blank", what).Want("one that neither begins nor ends so: git-lfs leaves blanks there out").
			Fix("give it without the blank, with -e %s=@FILE; where it is part of a password, have the server give you a token", variable)
	}

	return nil
}

// Pasted is an address or a name that a person gave, without the blanks and line ends
// around it that copying leaves: none of them has any.
func Pasted(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return unicode.IsSpace(r) || r == '\u200b' })
}

// marked reports whether text begins with a byte order mark, of UTF-8 or UTF-16.
func marked(b []byte) bool {
	for _, mark := range []string{"\xef\xbb\xbf", "\xfe\xff", "\xff\xfe"} {
		if bytes.HasPrefix(b, []byte(mark)) {
			return true
		}
	}

	return false
}

// utf8Mark is what some editors put at the beginning of UTF-8, to say that it is that.
var utf8Mark = []byte("\xef\xbb\xbf")

// TextOf is what a file says: without a mark of UTF-8 at its beginning, which is no part of
// the text. What editors call Unicode, UTF-16, is refused.
func TextOf(b []byte) ([]byte, error) {
	if marked(b) && !bytes.HasPrefix(b, utf8Mark) {
		return nil, problem.New(problem.Invalid, problem.RuleSessionValue, "the file that it names is in UTF-16").Want("UTF-8").Fix("save it as UTF-8")
	}

	return bytes.TrimPrefix(b, utf8Mark), nil
}
