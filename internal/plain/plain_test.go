package plain

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"

	"cupel.dev/cupel/internal/trusted/problem"
)

func TestPlain(t *testing.T) {
	denied := &fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}
	link := &os.LinkError{Op: "rename", Old: "/x", New: "/y", Err: syscall.ENOSPC}
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	nowhere := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}}
	cert := &x509.Certificate{DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	for _, c := range []struct {
		err  error
		want string
	}{
		{problem.New(problem.Invalid, "owner_state", "%w", denied), "/x: you have no right to it"},
		{fmt.Errorf("keep it: %w", denied), "keep it: /x: you have no right to it"},
		{problem.New(problem.Unavailable, "owner_directory", "%w", link), "/y: the disk is full"},
		{problem.New(problem.Denied, "measurement", "measurement: 12ab"), "12ab"},
		{problem.New(problem.Denied, "measurement", "12ab"), "12ab"},
		{problem.New(problem.Unavailable, "manager", "no manager answers: %w", refused), "no manager answers: nothing listens at 127.0.0.1:1"},
		{problem.New(problem.Unavailable, "manager", "no manager answers: %w", nowhere), "no manager answers: there is no host nowhere.invalid"},
		{errors.New("open the door"), "open the door"},
		{problem.New(problem.Denied, "x", "a: %w", x509.UnknownAuthorityError{Cert: cert}), "a: no authority that counts here made its certificate"},
		{problem.New(problem.Denied, "x", "a: %w", x509.HostnameError{Certificate: cert, Host: "foo.org"}), "a: its certificate is for localhost, 127.0.0.1, not for foo.org"},
		{problem.New(problem.Denied, "x", "a: %w", &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "foo.org"}}), "a: its certificate is for no host, not for foo.org"},
		{problem.New(problem.Unavailable, "x", "a: %w", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}), "a: what answers there speaks no TLS"},
		{problem.New(problem.Unavailable, "x", "a: %w", http.ErrSchemeMismatch), "a: what answers there speaks no TLS"},
		{problem.New(problem.Invalid, "x", "%w", &net.AddrError{Err: "missing port in address", Addr: "foo"}), "it names no port"},
		{problem.New(problem.Unavailable, "x", "%w", &url.Error{Op: "Get", URL: "http://deb.debian.org/x", Err: refused}), "http://deb.debian.org/x: nothing listens at 127.0.0.1:1"},
	} {
		if got := Problem(c.err, problem.From(c.err)).Actual; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
