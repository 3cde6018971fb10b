package wording

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"cupel.dev/cupel/api/problem"
)

// Problem says a refusal in words where a part of it is what the system or Go calls it,
// and no word twice.
func Problem(err error, p *problem.Error) *problem.Error {
	q := *p
	q.Actual = inWords(err, Met(p.Rule, p.Actual))
	return &q
}

// onFolder are the commands that a text may name and that work on a state folder: the
// operator's, and those that show or remove what runs there.
var onFolder = regexp.MustCompile(`\bcupel (?:up|down|cleanup|ps|logs|events|rm|info|check|install-service|uninstall-service|runtime build|volume (?:ls|rm))\b`)

// InState is a text whose commands name the state folder that it is about: followed as it
// is, one without would meet another installation. The default folder needs no name.
func InState(text, state, byDefault string) string {
	if state == "" || state == byDefault {
		return text
	}

	var b strings.Builder
	for {
		at := onFolder.FindStringIndex(text)
		if at == nil {
			return b.String() + text
		}

		b.WriteString(text[:at[1]])
		text = text[at[1]:]
		if !namesFolder(text) {
			b.WriteString(" --state " + ShellWord(state))
		}
	}
}

// namesFolder tells whether what follows a command, as far as that goes, names the folder.
func namesFolder(text string) bool {
	if next := onFolder.FindStringIndex(text); next != nil {
		text = text[:next[0]]
	}
	if end := strings.IndexAny(text, "\n;,()'`"); end >= 0 {
		text = text[:end]
	}
	return strings.Contains(text, "--state")
}

// ShellWord is a word of a command as a person types it into a shell. It has no quotes:
// the command may stand within some.
func ShellWord(s string) string {
	if s == "" {
		return `""`
	}

	var b strings.Builder
	for _, r := range s {
		if !strings.ContainsRune("/._-+@%,:=", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// ShellLine is a command of these words.
func ShellLine(words ...string) string {
	line := make([]string, len(words))
	for i, w := range words {
		line[i] = ShellWord(w)
	}
	return strings.Join(line, " ")
}

// Met is what a rule met, without the rule's name before it.
func Met(rule problem.Rule, actual string) string {
	return strings.TrimPrefix(actual, string(rule)+": ")
}

// Reason says a problem in one line: whose word it is, its rule, and what it met.
func Reason(p *problem.Error) string {
	return p.Source.Says() + string(p.Rule) + ": " + Met(p.Rule, p.Actual)
}

// Words is an error's text in words.
func Words(err error) string { return inWords(err, err.Error()) }

// inWords is text, in which err's own is replaced by words.
func inWords(err error, text string) string {
	replace := func(own, words string) { text = strings.Replace(text, own, words, 1) }

	if e, ok := errors.AsType[*url.Error](err); ok {
		replace(e.Error(), e.URL+": "+e.Err.Error())
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		replace(e.Error(), e.Path+": "+File(e.Err))
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		replace(e.Error(), LinkPath(e)+": "+File(e.Err))
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		replace(e.Error(), networkWords(e))
	}
	if e, ok := errors.AsType[*net.AddrError](err); ok && e.Err == "missing port in address" {
		replace(e.Error(), "it names no port")
	}
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		replace(e.Error(), "what answers there speaks no TLS")
	}
	replace(http.ErrSchemeMismatch.Error(), "what answers there speaks no TLS")
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		replace("tls: failed to verify certificate: ", "")
		err = e.Err // the text is its
	}

	if own, words := certificateWords(err); own != "" {
		replace(own, words)
	}

	return text
}

// LinkPath is the file that a rename or a link failed for: the old name where that is
// what isn't there, else the new one.
func LinkPath(err *os.LinkError) string {
	if err.Op != "symlink" && errors.Is(err.Err, fs.ErrNotExist) { // what a symbolic link leads to may be missing
		if _, gone := os.Lstat(err.Old); errors.Is(gone, fs.ErrNotExist) {
			return err.Old
		}
	}
	return err.New
}

// certificateWords says why a certificate isn't accepted, and what Go says of that.
func certificateWords(err error) (own, words string) {
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return e.Error(), "no authority that counts here made its certificate"
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return e.Error(), "its certificate is for " + namesOf(e.Certificate) + ", not for " + e.Host
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return e.Error(), "its certificate is not valid now: it is from " + e.Cert.NotBefore.UTC().Format(time.RFC3339) + " to " + e.Cert.NotAfter.UTC().Format(time.RFC3339)
	}
	return "", ""
}

// networkWords says why a connection came to nothing.
func networkWords(err *net.OpError) string {
	at := "there"
	if err.Addr != nil {
		at = "at " + err.Addr.String()
	}

	name, isName := errors.AsType[*net.DNSError](err)
	switch {
	case isName && name.IsNotFound:
		return "there is no host " + name.Name
	case isName:
		return "the name server doesn't say where " + name.Name + " is"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens " + at
	case err.Timeout():
		return "nothing answers " + at
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no way leads to what is " + at
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the connection broke off"
	}
	return err.Error()
}

// namesOf are the first hosts that a certificate is for.
func namesOf(c *x509.Certificate) string {
	const most = 3
	all := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}

	switch {
	case len(all) == 0:
		return "no host"
	case len(all) > most:
		return strings.Join(all[:most], ", ") + " and others"
	}
	return strings.Join(all, ", ")
}

// File says why a file can't be used.
func File(err error) string {
	for _, w := range []struct {
		cause error
		words string
	}{
		{fs.ErrNotExist, "there is no such file"},
		{syscall.EISDIR, "it is a folder, not a file"},
		{syscall.ENOTDIR, "a part of its path is no folder"},
		{fs.ErrPermission, "you have no right to it"},
		{syscall.EROFS, "nothing can be written there"},
		{syscall.ENOSPC, "the disk is full"},
		{syscall.EDQUOT, "your share of the disk is used up"},
		{syscall.ENAMETOOLONG, "its name is too long"},
		{syscall.ELOOP, "its path goes round through links"},
	} {
		if errors.Is(err, w.cause) {
			return w.words
		}
	}
	return err.Error()
}
