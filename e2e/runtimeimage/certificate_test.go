//go:build e2e

package runtimeimage

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// issued is a certificate with its key.
type issued struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func (c *issued) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// issue makes a certificate of an authority, nil for one of its own; change makes it
// another than that of a server here.
func issue(t *testing.T, by *issued, name string, change func(*x509.Certificate)) *issued {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter: time.Now().Add(48 * time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	change(c)
	if by == nil {
		by = &issued{c, key}
	}
	der := must(x509.CreateCertificate(rand.Reader, c, by.Certificate, &key.PublicKey, by.key))
	return &issued{must(x509.ParseCertificate(der)), key}
}

// serveAs serves what the server has with other certificates, and returns the address.
func (p *place) serveAs(chain ...*issued) string {
	p.t.Helper()
	c := tls.Certificate{PrivateKey: chain[0].key}
	for _, one := range chain {
		c.Certificate = append(c.Certificate, one.Raw)
	}
	l := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12}))
	server := &http.Server{Handler: p.s.Config.Handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(l) }()
	p.t.Cleanup(func() { _ = server.Close() })
	return "https://" + l.Addr().String()
}

// TestPullCertificates: a server's certificate that is not trusted is called what it
// is, as far as git tells, and what people have as a file of authorities is taken.
func TestPullCertificates(t *testing.T) {
	p := newPlace(t, unpacked(t, "puller"))
	p.s.repository(t, "app.git", map[string]string{"f": "x", ".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("model"))}, nil)
	authority := func(c *x509.Certificate) { c.IsCA, c.KeyUsage, c.IPAddresses = true, x509.KeyUsageCertSign, nil }
	ended := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }
	same := func(*x509.Certificate) {}

	root := issue(t, nil, "root", authority)
	between := issue(t, root, "between", authority)
	stranger := issue(t, nil, "stranger", authority)
	old := issue(t, nil, "old", func(c *x509.Certificate) { authority(c); ended(c) })
	leaf := issue(t, between, "git", same)
	elsewhere := issue(t, root, "elsewhere", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"elsewhere.example"} })

	whole := p.serveAs(leaf, between)
	for name, c := range map[string]struct {
		ca, server, says string
	}{
		"other authority":      {stranger.pem(), whole, "not from the authority given as GIT_CA"},
		"ended":                {root.pem(), p.serveAs(issue(t, root, "git", ended)), "its time is over"},
		"ended authority":      {old.pem(), p.serveAs(issue(t, old, "git", same)), "its time is over"},
		"another name":         {root.pem(), p.serveAs(elsewhere), "not for the name that GIT_REPO has"},
		"one between left out": {root.pem(), p.serveAs(leaf), "the server leaves out one between"},
		"no authority":         {leaf.pem(), whole, "not from the authority given as GIT_CA"},
		"DER":                  {string(root.Raw), whole, "GIT_CA"},
	} {
		t.Run(name, func(t *testing.T) {
			refused := p.pull
			refused.ca, refused.repository = c.ca, c.server+"/app.git"
			p.refusedAs(refused, 78, c.says)
		})
	}
	for name, ca := range map[string]string{
		"authority":  root.pem(),
		"the last":   stranger.pem() + old.pem() + root.pem(),
		"text, CRLF": strings.ReplaceAll("The root of git:\n"+root.pem()+"\n# a stranger\n"+stranger.pem(), "\n", "\r\n"),
		"between":    between.pem(),
		"no newline": strings.TrimSpace(root.pem()),
	} {
		t.Run(name, func(t *testing.T) {
			taken := p.pull
			taken.ca, taken.repository, taken.env = ca, whole+"/app.git", []string{"CUPEL_PULL_EXPECT="}
			if out, code := taken.run(t, p.root); code != 0 {
				t.Errorf("exit %d:\n%s", code, out)
			}
		})
	}
	p.holds("m.bin", "model")
}

// TestPullProxyCertificate: a proxy over TLS may be of the session's authority, and it
// is the proxy's certificate that is named where it is of none.
func TestPullProxyCertificate(t *testing.T) {
	p := newPlace(t, unpacked(t, "puller"))
	p.s.repository(t, "app.git", map[string]string{"f": "x", ".gitattributes": "*.bin filter=lfs\n", "m.bin": p.s.keepLFS(t, []byte("model"))}, nil)
	authority := issue(t, nil, "root of proxies", func(c *x509.Certificate) { c.IsCA, c.KeyUsage, c.IPAddresses = true, x509.KeyUsageCertSign, nil })
	leaf := issue(t, authority, "proxy", func(*x509.Certificate) {})
	l := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: leaf.key}}, MinVersion: tls.VersionTLS12}))
	proxy := &http.Server{Handler: http.HandlerFunc(tunnel), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = proxy.Serve(l) }()
	defer proxy.Close()

	through := p.pull
	through.repository, through.proxy, through.env = p.s.URL+"/app.git", "https://"+l.Addr().String(), []string{"CUPEL_PULL_EXPECT="}
	p.refusedAs(through, 74, "the proxy's certificate is not trusted", "add its authority to GIT_CA")
	none := through
	none.ca = ""
	p.refusedAs(none, 74, "the proxy's certificate is not trusted")
	through.ca += authority.pem()
	if out, code := through.run(t, p.root); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	p.holds("m.bin", "model")
	through.ca = authority.pem()
	p.refusedAs(through, 78, "the server's certificate is not trusted")
}

// tunnel leads to where it is asked to.
func tunnel(w http.ResponseWriter, r *http.Request) {
	server, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, "not there", http.StatusBadGateway)
		return
	}
	defer server.Close()
	w.WriteHeader(http.StatusOK)
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	go func() { _, _ = io.Copy(server, client) }()
	_, _ = io.Copy(client, server)
}
