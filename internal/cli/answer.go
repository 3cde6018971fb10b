package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// answerKind is what answers at an app's address, as whoever connects sees it.
type answerKind string

const (
	answersSession  answerKind = "session_tls" // TLS, with a certificate that the session's own CA made for an instance
	answersOtherTLS answerKind = "other_tls"   // TLS with any other certificate
	answersAsking   answerKind = "asking_tls"  // TLS 1.2 that ends without a certificate of the client's, before it proves itself
	answersHTTP     answerKind = "plain_http"  // HTTP without TLS
	answersOther    answerKind = "other"       // neither TLS nor HTTP
	answersSilent   answerKind = "silent"      // takes connections, and answers nothing on them
	answersCloses   answerKind = "closes"      // takes connections, and ends each before a word
	answersNothing  answerKind = "nothing"
)

// text says what answers, for people.
func (k answerKind) text() string {
	return map[answerKind]string{
		answersSession:  "TLS with the session's certificate",
		answersOtherTLS: "TLS with a certificate that isn't the session's",
		answersAsking:   "TLS 1.2 that wants a certificate of its clients",
		answersHTTP:     "HTTP without TLS",
		answersOther:    "something that speaks neither TLS nor HTTP",
		answersSilent:   "connections are taken, and nothing is answered",
		answersCloses:   "connections are taken, and closed at once",
		answersNothing:  "nothing",
	}[k]
}

// unproven reports whether something answers that can't be told from an impostor,
// and may be meant so.
func (k answerKind) unproven() bool { return k != answersSession && k != answersNothing }

// url is how users call what answers at an address.
func (k answerKind) url(address string) string {
	switch k {
	case answersHTTP:
		return "http://" + address
	case answersOther, answersSilent, answersCloses:
		return address
	case answersSession, answersOtherTLS, answersAsking, answersNothing:
	}
	return "https://" + address
}

// How long each look at what answers may take.
const (
	answerDial  = 10 * time.Second
	answerTLS   = 10 * time.Second
	answerHTTP  = 3 * time.Second
	answerQuiet = time.Second
)

// appProbe is where an app is looked at, and what its certificate is held against.
type appProbe struct {
	address string
	name    string // that the certificate must have; empty: any
	session ident.SessionName
	ca      *x509.CertPool // of the session
	now     time.Time
}

// found is what a look at an app's address saw.
type found struct {
	kind     answerKind
	instance ident.InstanceID // with answersSession
	problem  error            // nil with answersSession
}

// newAppProbe prepares a look at an app of a session that publishes caPEM.
func newAppProbe(address, name string, s ident.SessionName, caPEM string, now time.Time) (*appProbe, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(caPEM)) {
		return nil, problem.New(problem.Denied, ruleAppCA, "the session publishes no CA certificate as %s", appCA)
	}
	return &appProbe{
		address: address,
		name:    name,
		session: s,
		ca:      pool,
		now:     now,
	}, nil
}

// look connects to the app: with TLS, and if that isn't what is spoken there, with
// HTTP, and in the end without a word.
func (p *appProbe) look(ctx context.Context) found {
	conn, err := p.dial(ctx)
	if err != nil {
		return p.nothing(err)
	}
	defer conn.Close()

	_ = conn.SetDeadline(time.Now().Add(answerTLS))
	config := p.config()
	asked := false
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		return &tls.Certificate{}, nil
	}

	secured := tls.Client(conn, config)
	err = secured.HandshakeContext(ctx)
	if err == nil {
		return p.named(secured.ConnectionState())
	}

	if ctx.Err() != nil {
		return found{kind: answersNothing, problem: ctx.Err()}
	}

	if asked { // after the certificate was found to be the session's
		return p.asking(err)
	}
	if _, noTLS := errors.AsType[tls.RecordHeaderError](err); !noTLS && !broken(err) {
		return found{kind: answersOtherTLS, problem: p.certificateProblem(err)}
	}

	return p.withoutTLS(ctx, errors.Is(err, os.ErrDeadlineExceeded))
}

func (p *appProbe) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: answerDial}
	return d.DialContext(ctx, "tcp", p.address)
}

// config has the certificate checked by the session's CA alone.
func (p *appProbe) config() *tls.Config {
	server := p.name
	if server == "" {
		server, _, _ = net.SplitHostPort(p.address)
	}

	return &tls.Config{
		ServerName: server,
		MinVersion: tls.VersionTLS12,
		// The certificate is checked by VerifyConnection, also where its name
		// doesn't matter.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(cs tls.ConnectionState) error {
			opts := x509.VerifyOptions{
				Roots:         p.ca,
				Intermediates: x509.NewCertPool(),
				CurrentTime:   p.now,
				DNSName:       p.name,
				KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			}
			for _, c := range cs.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(opts)
			return err
		},
	}
}

// broken reports whether a connection ended, or was silent for too long, before it
// could be seen what is spoken on it.
func broken(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "dial" || op.Op == "read" || op.Op == "write") || errors.Is(err, io.EOF)
}

// named finds the instance that a certificate of the session's CA names.
func (p *appProbe) named(cs tls.ConnectionState) found {
	for _, u := range cs.PeerCertificates[0].URIs {
		rest, ok := strings.CutPrefix(u.String(), "cupel://"+string(p.session)+"/")
		if _, id, two := strings.Cut(rest, "/"); ok && two {
			if k, err := ident.ParseKeyHash(id); err == nil {
				return found{kind: answersSession, instance: k}
			}
		}
	}

	return found{kind: answersOtherTLS, problem: problem.New(problem.Denied, ruleAppCertificate, "the certificate at %s names no instance of session %s", p.address, p.session).
		Want("one that the CAS made for an instance").Fix("do not use the app")}
}

// withoutTLS looks at what answers where TLS isn't spoken, or nothing was said for
// so long that it may be.
func (p *appProbe) withoutTLS(ctx context.Context, silent bool) found {
	said, _ := p.hear(ctx, "HEAD / HTTP/1.1\r\nHost: "+p.address+"\r\nConnection: close\r\n\r\n", answerHTTP)
	switch {
	case silent && (strings.HasPrefix(said, "\x15\x03") || strings.HasPrefix(said, "HTTP/1.1 400") || strings.HasPrefix(said, "HTTP/1.0 400")):
		// So answers a server that wants TLS and is told something else: with an alert
		// record (RFC 8446, section 5.1), or in HTTP.
		return p.nothing(errors.New("no TLS connection came about within " + problem.Duration(answerTLS)))
	case strings.HasPrefix(said, "HTTP/"):
		return p.unprovable(answersHTTP)
	case said != "":
		return p.unprovable(answersOther)
	}

	said, open := p.hear(ctx, "", answerQuiet)
	switch {
	case ctx.Err() != nil:
		return found{kind: answersNothing, problem: ctx.Err()}
	case said == "" && open && silent:
		return p.unprovable(answersSilent)
	case said != "" || open:
		return p.unprovable(answersOther)
	}

	f := p.nothing(errors.New("connections are taken, and closed at once"))
	f.kind = answersCloses
	return f
}

// hear says something on a new connection and returns how the answer begins, and
// whether the connection was open until the end.
func (p *appProbe) hear(ctx context.Context, say string, wait time.Duration) (said string, open bool) {
	conn, err := p.dial(ctx)
	if err != nil {
		return "", false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()

	_ = conn.SetDeadline(time.Now().Add(wait))
	if _, err := io.WriteString(conn, say); err != nil {
		return "", false
	}

	b := make([]byte, 16)
	n, err := io.ReadAtLeast(conn, b, len("HTTP/1.1 400"))
	return string(b[:n]), errors.Is(err, os.ErrDeadlineExceeded)
}

// unprovable is what is said of an app that answers without TLS. It is no impostor by
// that: it just can't be told from one.
func (p *appProbe) unprovable(kind answerKind) found {
	does := "answers without TLS"
	there := "is " + kind.text()
	if kind == answersSilent || kind == answersCloses {
		does = "says nothing to who connects"
		there = kind.text()
	}
	return found{kind: kind, problem: codedError{codeAppPlain, problem.New(problem.Denied, ruleAppPlain,
		"your app %s, and your users can't tell it from an impostor: at %s %s", does, p.address, there).
		Want("TLS, with the certificate that the session makes for each instance").
		Fix("let the app serve TLS with /run/cupel/tls/cert.pem and key.pem; if you mean it so: --plain")}}
}

// ofRunning judges what was seen where instances run: then it is the app itself that
// closes connections, and not a place where nothing is.
func (p *appProbe) ofRunning(f found) found {
	if f.kind == answersCloses {
		return p.unprovable(answersCloses)
	}
	return f
}

// asking is what is said of an app that ends the handshake as it gets no certificate of
// ours. With TLS 1.3 (RFC 8446, section 2) the server has proved by then that it has its
// certificate's key; with TLS 1.2 (RFC 5246, section 7.3) anybody could show the
// certificate until then.
func (p *appProbe) asking(err error) found {
	return found{kind: answersAsking, problem: problem.New(problem.Denied, ruleAppCertificate,
		"at %s is TLS 1.2 that wants a certificate of its clients: it shows one of the session's, and ends before it proves that it has its key: %w", p.address, err).
		Want("TLS 1.3, where the app proves itself first").
		Fix("let the app speak TLS 1.3; if you mean it so: --plain")}
}

func (p *appProbe) nothing(err error) found {
	return found{kind: answersNothing, problem: problem.New(problem.Unavailable, ruleAppUnreachable, "%s: %w", p.address, err).
		Want("an app that answers").
		Fix("see 'cupel ps', and whether a firewall is between; 'cupel verify' takes another address by --address")}
}

// certificateProblem tells what is wrong with a certificate that isn't the session's,
// or isn't for the name.
func (p *appProbe) certificateProblem(err error) error {
	e := problem.New(problem.Denied, ruleAppCertificate, "%s: %w", p.address, err).
		Want("a certificate for %q of the session's own CA", p.name).
		Fix("do not use the app: something else answers at its address, unless your app brings a certificate of its own instead of /run/cupel/tls/cert.pem (if it is meant to: --plain)")
	if p.name == "" {
		e.Want("a certificate of the session's own CA")
	}

	// The name is compared first: only a certificate of the session's own CA lacks
	// nothing but that.
	if other, ok := errors.AsType[x509.HostnameError](err); ok && ownCertificate(other.Certificate, p.ca, p.now) {
		e.Fix("give a name that the certificate has with --name, or have the session's certificate made for %q (dns)", p.name)
	}

	return e
}

func ownCertificate(cert *x509.Certificate, ca *x509.CertPool, now time.Time) bool {
	_, err := cert.Verify(x509.VerifyOptions{Roots: ca, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err == nil
}

// closesFor is how long connections may be closed at once before it is the app that does
// so, rather than the operator's balancer as it starts again.
const closesFor = 3 * time.Second

// lookAt looks at what answers at an app's address, for as long as nothing does and
// the patience of --wait lasts.
func (g *globals) lookAt(ctx context.Context, p *appProbe) found {
	began := time.Now()
	for {
		f := p.look(ctx)

		var patience time.Duration
		switch f.kind {
		case answersNothing:
			patience = g.wait
		case answersCloses:
			patience = min(g.wait, closesFor)
		}

		if time.Since(began) >= patience || pause(ctx, 200*time.Millisecond) != nil {
			return f
		}
	}
}
