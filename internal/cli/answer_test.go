package cli_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"sync"
	"time"
)

// answering is something that answers at a port of this machine.
type answering struct {
	listener net.Listener

	mu   sync.Mutex
	what string
	cert *tls.Certificate
}

// newAnswering takes a port; until it is told what to be, it closes connections.
func newAnswering() (*answering, error) {
	ln, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return nil, err
	}
	a := &answering{listener: ln}
	go a.serve()
	return a, nil
}

func (a *answering) port() uint16 {
	return netip.MustParseAddrPort(a.listener.Addr().String()).Port()
}

// be has it answer from now on as: session (TLS with that certificate), other (TLS
// with another one), http, bytes (a greeting in a protocol of its own), closes (each
// connection, at once), or nothing, for good.
func (a *answering) be(what string, cert, key []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.what = what
	switch what {
	case "session":
		pair, err := tls.X509KeyPair(cert, key)
		a.cert = &pair
		return err
	case "other":
		web := httptest.NewTLSServer(nil)
		a.cert = &web.TLS.Certificates[0]
		web.Close()
	case "nothing":
		return a.listener.Close()
	}
	return nil
}

func (a *answering) serve() {
	for {
		conn, err := a.listener.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		what, cert := a.what, a.cert
		a.mu.Unlock()
		go answer(conn, what, cert)
	}
}

func answer(conn net.Conn, what string, cert *tls.Certificate) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	switch what {
	case "session", "other":
		conn = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})
	case "bytes":
		_, _ = io.WriteString(conn, "220 mail.example ESMTP\r\n")
	}
	if what == "closes" || what == "" {
		return
	}
	_, _ = conn.Read(make([]byte, 1))
	if what != "bytes" {
		_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\n\r\n")
	}
	_, _ = io.Copy(io.Discard, conn)
}
