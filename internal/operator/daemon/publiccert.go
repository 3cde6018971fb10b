package daemon

import (
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// publicCert is a certificate that a public authority made for the manager's name. It
// is shown to whoever asks for that name; everybody else, commands on this machine
// among them, is shown the manager's own. A renewed one is read when the file changed.
//
// It is safe for concurrent use.
type publicCert struct {
	certFile, keyFile string
	log               *slog.Logger

	mu   sync.Mutex
	read time.Time // the file's time when it was read
	cert *tls.Certificate
}

// openPublicCert reads the certificate; without files there is none.
func openPublicCert(certFile, keyFile string, log *slog.Logger) (*publicCert, error) {
	if certFile == "" && keyFile == "" {
		return nil, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, problem.New(problem.Invalid, problem.RuleUsage, "one of --manager-cert and --manager-key").Want("both").Fix("name the files of the certificate and of its key")
	}

	p := &publicCert{log: log}
	var err error
	if p.certFile, err = filepath.Abs(certFile); err == nil {
		p.keyFile, err = filepath.Abs(keyFile)
	}
	if err == nil {
		err = p.load()
	}

	if err != nil {
		return nil, problem.New(problem.Invalid, ruleManagerCert, "%w", err).
			Want("a certificate with its chain, and its key, in PEM").Fix("check the files of --manager-cert and --manager-key")
	}
	return p, nil
}

// load reads the files, unless they are those that were read.
func (p *publicCert) load() error {
	info, err := os.Stat(p.certFile)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(p.read) {
		return nil
	}

	chain, err := atomicfile.Read(p.certFile)
	if err != nil {
		return err
	}
	key, err := atomicfile.Read(p.keyFile)
	if err != nil {
		return err
	}

	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return err
	}

	p.cert, p.read = &cert, info.ModTime()
	return nil
}

// choose shows the public certificate to who asks for its name.
func (p *publicCert) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if p == nil || hello.ServerName == "" {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()

	if err := p.load(); err != nil {
		p.log.WarnContext(hello.Context(), "renewed certificate not read, the one before goes on", "error", err)
	}

	if p.cert.Leaf.VerifyHostname(hello.ServerName) != nil {
		return nil, nil
	}
	return p.cert, nil
}
