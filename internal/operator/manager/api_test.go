package manager_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/openapi"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/testing/backendtest"
	"cupel.dev/cupel/internal/testing/grantstest"
)

// checked lets requests through to h and fails the test where a reply isn't
// what the served OpenAPI file says.
func checked(t *testing.T, h http.Handler) http.Handler {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData([]byte(openapi.Manager))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	doc.Servers = nil
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	openapi3filter.RegisterBodyDecoder("application/jsonl", openapi3filter.PlainBodyDecoder)
	openapi3filter.RegisterBodyDecoder("application/yaml", openapi3filter.PlainBodyDecoder)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, params, err := router.FindRoute(r)
		if err != nil || r.URL.Query().Get("follow") == "true" {
			h.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route}
		out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: rec.Code, Header: rec.Header()}
		out.SetBodyBytes(rec.Body.Bytes())
		if err := openapi3filter.ValidateResponse(context.WithoutCancel(r.Context()), out); err != nil {
			t.Errorf("%s %s: the reply isn't as described: %v", r.Method, r.URL, err)
		}
		if rec.Header().Get("X-Request-Id") == "" {
			t.Errorf("%s %s: no request id", r.Method, r.URL)
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	})
}

func keyPair(t *testing.T) (tls.Certificate, ident.KeyHash) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, ident.HashCertKey(leaf)
}

// served is a manager behind its API, with a client for each party.
type served struct {
	addr                      string
	fake                      *backendtest.Fake
	cas                       *grantstest.Fake
	ownerKey                  ident.KeyHash
	owner, operator, stranger *client.Manager
}

func serve(t *testing.T) served { return serveOn(t, nil) }

// serveOn is serve with another backend around the fake one.
func serveOn(t *testing.T, around func(*backendtest.Fake) manager.Backend) served {
	t.Helper()
	db, err := managerdb.Open(t.Context(), t.TempDir()+"/manager.db")
	if err != nil {
		t.Fatal(err)
	}
	ownerCert, ownerHash := keyPair(t)
	cas := grantstest.NewFake("cas:1", theCAS)
	opCert, opHash := keyPair(t)
	fake := backendtest.NewFake()
	var backend manager.Backend = fake
	if around != nil {
		backend = around(fake)
	}
	bal := &balancer{taken: map[uint16]bool{}}
	m, err := manager.New(t.Context(), manager.Config{
		Store: db, Backend: backend, Balancer: bal, Catalog: catalog{}, Grants: cas.Holder(opHash), CAS: managerapi.CASRef{Instances: string(cas.Addr), Identity: theCAS},
		PortFree: bal.free, FirstPort: 8082, Operator: opHash, Simulated: true, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	root := ident.Sum(nil)
	api := &manager.API{
		Manager: m, Log: slog.New(slog.DiscardHandler),
		Info: func() managerapi.Info {
			return managerapi.Info{Release: "test", Backend: "nodes", Simulation: &root, Parts: []managerapi.Part{{Name: "manager"}}}
		},
		Template: func(_ context.Context, q url.Values) ([]byte, error) {
			if q.Get("runtime") == "" {
				return nil, problem.New(problem.Invalid, "template_input", "no runtime")
			}
			return []byte("name: $SESSION\n"), nil
		},
	}
	api.Sources = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(w, "registry: "+r.URL.Path)
	})
	srv := httptest.NewUnstartedServer(checked(t, api.Handler()))
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(func() {
		cancel()
		srv.CloseClientConnections()
		srv.Close()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		_ = db.Close()
	})
	addr := srv.Listener.Addr().String()
	digest := ident.Sum(srv.Certificate().Raw)
	return served{
		addr: addr, fake: fake, cas: cas, ownerKey: ownerHash,
		owner:    client.NewManager(ident.Address(addr), client.ManagerOptions{CertSHA256: digest, Certificate: &ownerCert}),
		operator: client.NewManager(ident.Address(addr), client.ManagerOptions{CertSHA256: digest, Certificate: &opCert}),
		stranger: client.NewManager(ident.Address(addr), client.ManagerOptions{CertSHA256: digest}),
	}
}

// request is a request with the code of a grant that the owner made.
func (s *served) request() managerapi.DeployRequest {
	req := request()
	theirs := terms(req)
	theirs.Maker = s.ownerKey
	req.Code = s.cas.Make(theirs).String()
	return req
}

// await waits for the app's deployment to end.
func await(t *testing.T, c *client.Manager, ref string) managerapi.App {
	t.Helper()
	for range 1000 {
		a, err := c.App(t.Context(), ident.AppRef(ref))
		if err != nil {
			t.Fatal(err)
		}
		if a.Deployment.State != managerapi.DeploymentRunning {
			return a
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the deployment never ended")
	return managerapi.App{}
}

func TestAPI(t *testing.T) {
	s := serve(t)
	ctx := t.Context()
	info, err := s.operator.Info(ctx)
	if err != nil || !info.Operator || info.Simulation == nil {
		t.Errorf("Info as the operator: %+v, %v", info, err)
	}
	if info, err := s.stranger.Info(ctx); err != nil || info.Operator {
		t.Errorf("Info without a certificate: %+v, %v", info, err)
	}
	if list, err := s.stranger.Runtimes(ctx); err != nil || len(list) != 3 || list[2].Problem == nil || list[2].Problem.Mend == "" {
		t.Errorf("Runtimes: %+v, %v", list, err)
	}
	if text, err := s.stranger.Template(ctx, url.Values{"runtime": {"python"}, "command": {"x"}}); err != nil || !strings.Contains(string(text), "$SESSION") {
		t.Errorf("Template: %q, %v", text, err)
	}
	if _, err := s.stranger.Apps(ctx); problem.KindOf(err) != problem.Unauthenticated {
		t.Errorf("Apps without a certificate: %v", err)
	}
	req := s.request()
	if _, err := s.owner.Deploy(ctx, req); err != nil {
		t.Fatal(err)
	}
	a := await(t, s.owner, "alice-shop")
	if a.State != managerapi.AppReady {
		t.Fatalf("%+v", a)
	}
	list, err := s.owner.Instances(ctx, ident.AppRef(a.Name))
	if err != nil || len(list) != 4 {
		t.Fatalf("Instances: %+v, %v", list, err)
	}
	var last managerapi.Instance
	for _, in := range list {
		if in.Role == "app" {
			last = in
		}
	}
	lines := 0
	if err := s.owner.Logs(ctx, ident.InstanceRef(last.ID), client.LogOptions{Tail: -1}, func(l managerapi.LogLine) error { lines++; return nil }); err != nil || lines == 0 {
		t.Errorf("Logs: %d lines, %v", lines, err)
	}
	if r, err := s.owner.RemoveInstance(ctx, ident.InstanceRef(last.ID)); err != nil || r.Instances != 2 {
		t.Errorf("RemoveInstance: %+v, %v", r, err)
	}
	events := 0
	if err := s.owner.Events(ctx, 0, ident.AppRef(a.ID), false, func(managerapi.Event) error { events++; return nil }); err != nil || events == 0 {
		t.Errorf("Events: %d, %v", events, err)
	}
	if a, err := s.operator.RemoveApp(ctx, ident.AppRef(a.ID)); err != nil || a.State != managerapi.AppRemoving {
		t.Errorf("RemoveApp: %+v, %v", a, err)
	}
}

func TestFollowedEvents(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var reasons []string
	done := make(chan error, 1)
	go func() {
		done <- s.owner.Events(ctx, 0, "", true, func(e managerapi.Event) error {
			reasons = append(reasons, e.Reason)
			if e.Reason == "deployed" {
				return io.EOF
			}
			return nil
		})
	}()
	if _, err := s.owner.Deploy(ctx, s.request()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, io.EOF) {
		t.Fatalf("followed %v, then %v", reasons, err)
	}
}

// TestQuietStreams: whoever follows what says nothing has an answer all the same.
func TestQuietStreams(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := s.owner.Deploy(ctx, s.request()); err != nil {
		t.Fatal(err)
	}
	await(t, s.owner, "alice-shop")
	list, err := s.owner.Instances(ctx, "alice-shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{managerapi.PathEvents + "?follow=true&since=1000000", managerapi.PathInstances + "/" + list[0].ID + "/logs?follow=true&tail=0"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.owner.HTTP().Do(req)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/jsonl" {
			t.Errorf("%s: %s, %v", path, r.Status, r.Header)
		}
		_ = r.Body.Close()
	}
}

func TestAPIRefuses(t *testing.T) {
	s := serve(t)
	cert, _ := keyPair(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // a test's own server
		Certificates:       []tls.Certificate{cert},
	}}}
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		rule               string
	}{
		"no such path":      {"GET", "/v2/apps", "", 404, "path"},
		"not JSON":          {"POST", "/v1/apps", "{", 400, "body"},
		"unknown field":     {"POST", "/v1/apps", `{"version":1,"sudo":true}`, 400, "body"},
		"too large":         {"POST", "/v1/apps", `{"session":"` + strings.Repeat("x", 1<<17) + `"}`, 400, "body"},
		"wrong version":     {"POST", "/v1/apps", `{"version":7}`, 400, "version"},
		"unknown app":       {"GET", "/v1/apps/nothing", "", 404, "app"},
		"unknown instance":  {"DELETE", "/v1/instances/nothing", "", 404, "instance"},
		"logs of nothing":   {"GET", "/v1/instances/nothing/logs", "", 404, "instance"},
		"bad since":         {"GET", "/v1/instances/x/logs?since=yesterday", "", 400, "parameter"},
		"bad follow":        {"GET", "/v1/events?follow=perhaps", "", 400, "parameter"},
		"bad number":        {"GET", "/v1/events?since=x", "", 400, "parameter"},
		"template, nothing": {"GET", "/v1/template", "", 400, "template_input"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+s.addr+c.path, bytes.NewBufferString(c.body))
			if err != nil {
				t.Fatal(err)
			}
			r, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Body.Close() }()
			body, _ := io.ReadAll(r.Body)
			p := problem.Read(r.StatusCode, body)
			if r.StatusCode != c.status || string(p.Rule) != c.rule || p.RequestID == "" {
				t.Errorf("%d %s", r.StatusCode, body)
			}
		})
	}
}

// TestServe covers the listener's own setup: TLS 1.3 only, an end with ctx.
func TestServe(t *testing.T) {
	cert, _ := keyPair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	api := &manager.API{Log: slog.New(slog.DiscardHandler)}
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, ln, cert) }()
	if _, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil { //nolint:gosec // so a refusal is ours
		t.Errorf("TLS 1.2 was accepted")
	}
	other := client.NewManager(ident.Address(ln.Addr().String()), client.ManagerOptions{CertSHA256: ident.Sum([]byte("another"))})
	if _, err := other.Info(t.Context()); problem.From(err).Rule != "manager_certificate" {
		t.Errorf("another certificate: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// TestSources: others get of the registry what images were built from, and nothing
// else, no volume above all.
func TestSources(t *testing.T) {
	s := serve(t)
	for path, want := range map[string]int{
		"/v2/runtimes/python/sources/manifests/latest": http.StatusOK,
		"/v2/runtimes/python/sources/blobs/sha256:00":  http.StatusOK,
		"/v2/runtimes/python/sources/tags/list":        http.StatusNotFound,
		"/v2/runtimes/python/manifests/latest":         http.StatusNotFound,
		"/v2/volumes/genesis/blobs/sha256:00":          http.StatusNotFound,
		"/v2/_catalog":                                 http.StatusNotFound,
		"/v2/":                                         http.StatusNotFound,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.stranger.HTTP().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil || r.StatusCode != want || (want == http.StatusOK) != strings.HasPrefix(string(body), "registry: "+path) {
			t.Errorf("%s: status %d, %q, %v; want %d", path, r.StatusCode, body, err, want)
		}
	}
}
