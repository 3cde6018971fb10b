package cas_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/storetest"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/cas/keyfile"
	"cupel.dev/cupel/internal/trusted/cas/quota"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

// believer is a Verifier that believes: its evidence is the claims themselves.
// Real evidence is for internal/testing/castest.
type believer struct{}

func (believer) Verify(ev evidence.Evidence, _ time.Time) (evidence.Claims, error) {
	var c evidence.Claims
	if err := json.Unmarshal(ev.Quote, &c); err != nil {
		return c, problem.New(problem.Unauthenticated, "evidence", "%w", err)
	}
	return c, nil
}

// world is a CAS over a store in memory.
type world struct {
	*cas.CAS
	t     *testing.T
	store *storetest.Memory
	key   *keyfile.Sealer
	owner cas.Caller
	// quotas that the next start has; zero: the defaults.
	quotas quota.Limits
	// reports a second that the next start takes; 0: the default.
	reports int
	// tokens are of wide grants, one for each session, for tests that are about
	// something else.
	tokens map[ident.SessionName]owners.GrantToken
}

const keepAlive = 10 * time.Second

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, "")
}

// newWorldWith is newWorld with some quotas.
func newWorldWith(t *testing.T, quotas string) *world {
	t.Helper()
	key, err := keyfile.Create(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: storetest.NewMemory(), key: key, owner: cas.Caller{Key: ident.KeyHash{0xee}}}
	w.tokens = map[ident.SessionName]owners.GrantToken{}
	if quotas != "" {
		if err := w.quotas.Set(quotas); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	return w
}

// try opens the CAS on the store as it is.
func (w *world) try() error {
	c, err := cas.Open(context.Background(), cas.Config{
		Store: w.store, Sealer: w.key, Verifier: believer{}, KeepAlive: keepAlive, Quotas: w.quotas, Reports: w.reports,
		Log: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err == nil {
		w.CAS = c
		w.t.Cleanup(c.Close)
	}
	return err
}

func (w *world) open() {
	w.t.Helper()
	if err := w.try(); err != nil {
		w.t.Fatal(err)
	}
}

// restart closes the CAS and opens it again.
func (w *world) restart() {
	w.t.Helper()
	w.Close()
	w.open()
}

var code = ident.Measurement{0x11}

func (w *world) put(text string) ident.Digest {
	w.t.Helper()
	c, err := w.PutSession(w.t.Context(), w.owner, []byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Hash
}

// twoWriters is a session with two services that may both write one volume, and
// one that only reads.
func twoWriters(name string) string {
	return strings.NewReplacer("NAME", name, "CODE", code.String()).Replace(`version: "0.3"
name: NAME
services:
  - {name: a, image_name: writer, mrenclaves: [CODE], command: a}
  - {name: b, image_name: writer, mrenclaves: [CODE], command: b}
  - {name: r, image_name: reader, mrenclaves: [CODE], command: r}
volumes: [{name: v}]
images:
  - {name: writer, volumes: [{name: v, path: /v, update_policy: rollback_protected}]}
  - {name: reader, volumes: [{name: v, path: /v, update_policy: ephemeral}]}
`)
}

// watch has the CAS watch over lapses, until stop ends that and the CAS. For bubbles
// of synctest.
func (w *world) watch() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	return func() { cancel(); <-done; w.Close(); synctest.Wait() }
}

// ask releases an instance with this key, under a wide grant.
func (w *world) ask(key byte, session ident.SessionName, service ident.ServiceName) (*wire.ReleaseReply, error) {
	w.t.Helper()
	return w.askUnder(w.wide(session), key, session, service)
}

// wide is the token of a grant for many instances of every service.
func (w *world) wide(name ident.SessionName) owners.GrantToken {
	w.t.Helper()
	if token, ok := w.tokens[name]; ok {
		return token
	}
	read, err := w.GetSession(context.Background(), w.owner, name, nil)
	if err != nil {
		return owners.GrantToken{}
	}
	s, err := session.Parse([]byte(read.Text))
	if err != nil {
		w.t.Fatal(err)
	}
	services := map[ident.ServiceName]owners.GrantedService{}
	for _, svc := range s.Services {
		services[svc.Name] = owners.GrantedService{Instances: 1000}
	}
	w.tokens[name] = w.claim(provider, w.submit(w.owner, name, services).Code).Token
	return w.tokens[name]
}

// askUnder releases an instance with this key under this token.
func (w *world) askUnder(token owners.GrantToken, key byte, session ident.SessionName, service ident.ServiceName) (*wire.ReleaseReply, error) {
	w.t.Helper()
	req, who, exporter := w.request(token, key, session, service)
	return w.Release(context.Background(), who, exporter, req)
}

// request is what the instance with this key sends.
func (w *world) request(token owners.GrantToken, key byte, session ident.SessionName, service ident.ServiceName) (*wire.ReleaseRequest, cas.Caller, [32]byte) {
	w.t.Helper()
	who := cas.Caller{Key: ident.KeyHash{key}}
	exporter := [32]byte{key}
	quote, err := json.Marshal(evidence.Claims{
		Type: evidence.SGX, Measurement: code, TCBStatus: "UpToDate", FMSPC: "000000000000",
		ReportData: wire.ReportData(exporter, who.Key), LaunchBinding: wire.LaunchBinding(w.Identity().Hash(), session, service),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return &wire.ReleaseRequest{
		Version:  wire.ReleaseVersion,
		Session:  session,
		Service:  service,
		Grant:    token,
		Evidence: evidence.Evidence{Type: evidence.SGX, Quote: quote},
	}, who, exporter
}

func (w *world) mustAsk(key byte, session ident.SessionName, service ident.ServiceName) *wire.ReleaseReply {
	w.t.Helper()
	r, err := w.ask(key, session, service)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) beat(key byte) error {
	_, err := w.KeepAlive(context.Background(), cas.Caller{Key: ident.KeyHash{key}}, wire.KeepAlive{Version: wire.ReleaseVersion})
	return err
}

func (w *world) exit(key byte) error {
	return w.Exit(context.Background(), cas.Caller{Key: ident.KeyHash{key}}, wire.Exit{Version: wire.ReleaseVersion})
}

// tag commits from a generation of the volume as the instance got it.
func (w *world) tag(key byte, v wire.Volume, from uint64, fromTag, tag ident.Digest) error {
	_, err := w.Commit(context.Background(), cas.Caller{Key: ident.KeyHash{key}}, wire.TagRequest{
		Version: wire.ReleaseVersion, Volume: v.ID, Lease: v.Lease, From: from, FromTag: fromTag, Tag: tag,
	})
	return err
}

func rule(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted; want a refusal by %s", want)
	}
	p, ok := errors.AsType[*problem.Error](err)
	if !ok || string(p.Rule) != want {
		t.Fatalf("%v; want rule %s", err, want)
	}
	t.Log(err)
}

// replaceCode fills in the measurement of all the code that there is.
func replaceCode(text string) string { return strings.ReplaceAll(text, "CODE", code.String()) }
