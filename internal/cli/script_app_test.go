package cli_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/testing/castest"
	"cupel.dev/cupel/internal/trusted/owner/home"
	"cupel.dev/cupel/internal/trusted/wire"
)

type scriptAppKey struct{}

// scriptApp is an instance of a script's session: released by the script's CAS,
// and serving with the certificate that it got.
type scriptApp struct {
	conn   *castest.Conn
	server *httptest.Server
}

func (a *scriptApp) stop() {
	if a.server != nil {
		a.server.Close()
		a.server = nil
	}
}

// appCommand is `app start SESSION [TOKEN]` (with the token in that file, or else
// under a wide grant of the owner's; sets $APP, its address), `app exit` (it reports
// its end to the CAS and goes on serving) and `app impostor` (another certificate at
// another address).
func appCommand(ts *testscript.TestScript, neg bool, args []string) {
	a, ok := ts.Value(scriptAppKey{}).(*scriptApp)
	cas, running := ts.Value(scriptCASKey{}).(*scriptCAS)
	if !ok || !running || cas.env == nil || neg || len(args) == 0 {
		ts.Fatalf("usage: app start SESSION [TOKEN] | app exit | app impostor, with a CAS")
	}
	switch args[0] {
	case "exit":
		ts.Check(a.conn.Post(wire.PathExit, wire.Exit{Version: wire.ReleaseVersion}, nil))
		return
	case "impostor":
		a.serve(ts, nil)
		return
	}
	session, err := ident.ParseSessionName(args[1])
	ts.Check(err)
	m, err := ident.ParseMeasurement(ts.Getenv("PYTHON"))
	ts.Check(err)
	in, err := castest.NewInstance(cas.env.Instances, cas.env.Identity, cas.env.Platform, session, "client-app", m)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if len(args) > 2 {
		in.Grant, err = owners.ParseGrantToken(strings.TrimSpace(ts.ReadFile(args[2])))
	} else {
		in.Grant, err = wideGrant(ctx, ts, cas, session)
	}
	ts.Check(err)
	conn, reply, err := in.Release(ctx)
	ts.Check(err)
	a.conn = conn
	files := map[string][]byte{}
	for _, f := range reply.Files {
		files[f.Path] = f.Content
	}
	cert, err := tls.X509KeyPair(files["/run/cupel/tls/cert.pem"], files["/run/cupel/tls/key.pem"])
	ts.Check(err)
	a.serve(ts, &cert)
	ts.Setenv("APP_INSTANCE", reply.InstanceID.Short())
}

// wideGrant is a grant of the script's owner for as much as anybody wants.
func wideGrant(ctx context.Context, ts *testscript.TestScript, cas *scriptCAS, session ident.SessionName) (owners.GrantToken, error) {
	dir, err := home.Open(ts.Getenv("CUPEL_CONFIG"))
	ts.Check(err)
	id, err := dir.KeyPair(ctx, time.Now)
	ts.Check(err)
	return cas.env.TokenOf(ctx, id.KeyHash, session)
}

func (a *scriptApp) serve(ts *testscript.TestScript, cert *tls.Certificate) {
	a.stop()
	a.server = httptest.NewUnstartedServer(http.NotFoundHandler())
	a.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if cert != nil {
		a.server.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13}
	}
	a.server.StartTLS()
	ts.Setenv("APP", a.server.Listener.Addr().String())
}
