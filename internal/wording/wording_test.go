package wording

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
	"path/filepath"
	"syscall"
	"testing"

	"cupel.dev/cupel/api/problem"
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

// TestRenameNamesWhatIsMissing: of a rename or a link that fails, the file that isn't
// there is named, which may be either.
func TestRenameNamesWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("there"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{
		at("old"):                     os.Rename(at("old"), at("new")),
		at("hard"):                    os.Link(at("hard"), at("new")),
		filepath.Join(dir, "no", "a"): os.Rename(at("there"), filepath.Join(dir, "no", "a")),
		filepath.Join(dir, "no", "b"): os.Symlink("anything", filepath.Join(dir, "no", "b")),
	} {
		if got := Words(err); got != want+": there is no such file" {
			t.Errorf("%v: %s", err, got)
		}
	}
}

func TestShellLine(t *testing.T) {
	want := `mv /srv/100%state /srv/a\ b it\'s \$x "" /srv/größe`
	if got := ShellLine("mv", "/srv/100%state", "/srv/a b", "it's", "$x", "", "/srv/größe"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestInState(t *testing.T) {
	for _, c := range []struct{ mend, state, want string }{
		{"use it as it is, or stop it: cupel down", "/srv/a", "use it as it is, or stop it: cupel down --state /srv/a"},
		{"kill -9 7, then cupel up: apps go on", "/srv/a b", "kill -9 7, then cupel up --state /srv/a\\ b: apps go on"},
		{"cupel up --deploy-keys F", "./it's", `cupel up --state ./it\'s --deploy-keys F`},
		{"cupel down --state /srv/b first", "/srv/a", "cupel down --state /srv/b first"},
		{"start it: cupel up; or name another folder with --state", "/srv/a", "start it: cupel up --state /srv/a; or name another folder with --state"},
		{"cupel down --force, then cupel install-service --state /srv/b and cupel ps\ncupel check --state /srv/b", "/srv/a", "cupel down --state /srv/a --force, then cupel install-service --state /srv/b and cupel ps --state /srv/a\ncupel check --state /srv/b"},
		{"watch it with 'cupel events shop -f'", "/srv/a b", `watch it with 'cupel events --state /srv/a\ b shop -f'`}, // no quotes within quotes
		{"see `cupel info`", `/srv/$a"é`, "see `cupel info --state /srv/\\$a\\\"é`"},
		{"stop it: cupel down", "/var/lib/cupel", "stop it: cupel down"},
		{"stop it: cupel down", "", "stop it: cupel down"},
		{"cupel deploy my-app; cupel upload", "/srv/a", "cupel deploy my-app; cupel upload"},
		{"watch it with 'cupel events shop -f'; end it with 'cupel rm --app shop'", "/srv/a", "watch it with 'cupel events --state /srv/a shop -f'; end it with 'cupel rm --state /srv/a --app shop'"},
		{"cupel volume ls, then cupel volume rm 1234; cupel volume reset shop genesis", "/srv/a", "cupel volume ls --state /srv/a, then cupel volume rm --state /srv/a 1234; cupel volume reset shop genesis"},
	} {
		if got := InState(c.mend, c.state, "/var/lib/cupel"); got != c.want {
			t.Errorf("%q, of %s: %q, want %q", c.mend, c.state, got, c.want)
		}
	}
}
