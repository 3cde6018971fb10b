package manager

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/openapi"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/connlimit"
	"cupel.dev/cupel/internal/trusted/httpproblem"
)

// maxRequest bounds the body of one request.
const maxRequest = 64 << 10

// bodyTimeout is how long a caller may take to send it.
const bodyTimeout = 30 * time.Second

// API serves a Manager over HTTPS. A caller is whoever proves a key by a client
// certificate; of the certificate only the key counts.
type API struct {
	Manager *Manager
	Info    func() managerapi.Info
	// Template writes the session template for the inputs in the query.
	Template func(ctx context.Context, inputs url.Values) ([]byte, error)
	// Sources serves the registry's API, of which others get the sources of images:
	// they rebuild from them. Nil: there is none.
	Sources http.Handler
	// Public chooses the certificate for who asks for a public name of the manager;
	// where it is nil, or chooses none, everybody is shown the manager's own.
	Public func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Log    *slog.Logger
}

// Handler returns the API's routes.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+managerapi.PathHealth, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"version": managerapi.Version, "status": "ok"})
	})
	mux.HandleFunc("GET "+managerapi.PathOpenAPI, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = io.WriteString(w, openapi.Manager)
	})

	mux.HandleFunc("GET "+managerapi.PathInfo, a.public(a.info))
	mux.HandleFunc("GET "+managerapi.PathRuntimes, a.public(a.runtimes))
	mux.HandleFunc("GET "+managerapi.PathTemplate, a.public(a.template))
	if a.Sources != nil {
		mux.HandleFunc("GET "+managerapi.PathSources, a.public(a.sources))
	}

	mux.HandleFunc("POST "+managerapi.PathApps, a.known(a.deploy))
	mux.HandleFunc("GET "+managerapi.PathApps, a.known(a.apps))
	mux.HandleFunc("GET "+managerapi.PathApps+"/{app}", a.known(a.app))
	mux.HandleFunc("DELETE "+managerapi.PathApps+"/{app}", a.known(a.removeApp))
	mux.HandleFunc("GET "+managerapi.PathInstances, a.known(a.instances))
	mux.HandleFunc("DELETE "+managerapi.PathInstances+"/{id}", a.known(a.removeInstance))
	mux.HandleFunc("GET "+managerapi.PathInstances+"/{id}/logs", a.known(a.logs))
	mux.HandleFunc("GET "+managerapi.PathVolumes, a.known(a.volumes))
	mux.HandleFunc("DELETE "+managerapi.PathVolumes+"/{id}", a.known(a.removeVolume))
	mux.HandleFunc("GET "+managerapi.PathEvents, a.known(a.events))

	mux.HandleFunc("/", a.public(func(_ http.ResponseWriter, r *http.Request, _ ident.KeyHash) error {
		return problem.New(problem.NotFound, problem.RulePath, "%s %.200s is no path of this API", r.Method, r.URL.Path).Fix("see %s", managerapi.PathOpenAPI)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		httpproblem.NameRequest(w, r)
		w.Header().Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		mux.ServeHTTP(w, r)
	})
}

// maxConnections are open at once, a quarter of them from one address. Streams that
// follow events or logs end first where all are taken.
const maxConnections = 1024

// Serve serves on ln with that certificate until ctx ends.
func (a *API) Serve(ctx context.Context, ln net.Listener, cert tls.Certificate) error {
	s := &http.Server{
		Handler:           a.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(a.Log.Handler(), slog.LevelWarn),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS13,
			Certificates:   []tls.Certificate{cert},
			GetCertificate: a.Public,
			NextProtos:     []string{"http/1.1"},
			ClientAuth:     tls.RequestClientCert, // the key counts, whoever certified it
		},
	}

	stop := context.AfterFunc(ctx, func() {
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if s.Shutdown(short) != nil {
			_ = s.Close()
		}
	})
	defer stop()

	limited := connlimit.Limit(ln, maxConnections)
	s.ConnState = limited.Observe
	err := s.ServeTLS(limited, "", "")
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

type handler func(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error

// public answers whoever asks; the caller is zero without a certificate.
func (a *API) public(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var caller ident.KeyHash
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			caller = ident.HashCertKey(r.TLS.PeerCertificates[0])
		}

		tracked := &tracker{ResponseWriter: w}
		err := h(tracked, r, caller)
		if err == nil {
			return
		}

		id := w.Header().Get(problem.HeaderRequestID)
		if problem.KindOf(err) == problem.Internal {
			a.Log.ErrorContext(r.Context(), "request not served", "request_id", id, "path", r.URL.Path, "error", err)
		}

		if !tracked.begun {
			httpproblem.Write(w, id, err)
			return
		}
		panic(http.ErrAbortHandler) // a stream that broke must not look complete
	}
}

// known answers callers with a key only.
func (a *API) known(h handler) http.HandlerFunc {
	return a.public(func(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
		if caller.IsZero() {
			return problem.New(problem.Unauthenticated, ruleCertificate, "no client certificate").
				Fix("present the owner's certificate; `cupel` does so by itself")
		}
		return h(w, r, caller)
	})
}

// tracker remembers whether a reply has begun.
type tracker struct {
	http.ResponseWriter
	begun bool
}

func (t *tracker) WriteHeader(status int) {
	t.begun = true
	t.ResponseWriter.WriteHeader(status)
}

func (t *tracker) Write(b []byte) (int, error) {
	t.begun = true
	return t.ResponseWriter.Write(b)
}

func (t *tracker) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller hung up: nobody to tell
}

func (a *API) info(w http.ResponseWriter, _ *http.Request, caller ident.KeyHash) error {
	info := a.Info()
	info.Version = managerapi.Version
	info.OperatorKey = a.Manager.cfg.Operator
	info.Operator = !caller.IsZero() && caller == a.Manager.cfg.Operator
	reply(w, http.StatusOK, info)
	return nil
}

func (a *API) runtimes(w http.ResponseWriter, r *http.Request, _ ident.KeyHash) error {
	list, err := a.Manager.cfg.Catalog.Runtimes(r.Context())
	if err != nil {
		return err
	}
	if list == nil {
		list = []managerapi.Runtime{}
	}
	reply(w, http.StatusOK, managerapi.RuntimeList{Version: managerapi.Version, Runtimes: list})
	return nil
}

// sources hands out what images were built from, and nothing else that the registry has.
func (a *API) sources(w http.ResponseWriter, r *http.Request, _ ident.KeyHash) error {
	if kind := r.PathValue("kind"); kind != "manifests" && kind != "blobs" {
		return problem.New(problem.NotFound, problem.RulePath, "%.200s is no path of this API", r.URL.Path).Fix("see %s", managerapi.PathOpenAPI)
	}
	a.Sources.ServeHTTP(w, r)
	return nil
}

func (a *API) template(w http.ResponseWriter, r *http.Request, _ ident.KeyHash) error {
	text, err := a.Template(r.Context(), r.URL.Query())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(text)
	return nil
}

func (a *API) deploy(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
	var req managerapi.DeployRequest
	body := http.NewResponseController(w)
	_ = body.SetReadDeadline(time.Now().Add(bodyTimeout)) // where the connection has none, nobody can be slow either

	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return problem.New(problem.Invalid, problem.RuleBody, "request body: %w", problem.NotJSON(err)).Want("JSON as in %s", managerapi.PathOpenAPI)
	}
	_ = body.SetReadDeadline(time.Time{})

	app, err := a.Manager.Deploy(r.Context(), caller, req)
	if err != nil {
		return err
	}
	reply(w, http.StatusAccepted, app)
	return nil
}

func (a *API) apps(w http.ResponseWriter, _ *http.Request, caller ident.KeyHash) error {
	reply(w, http.StatusOK, managerapi.AppList{Version: managerapi.Version, Apps: a.Manager.Apps(caller)})
	return nil
}

func (a *API) app(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
	app, err := a.Manager.App(caller, ident.AppRef(r.PathValue("app")))
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, app)
	return nil
}

func (a *API) removeApp(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
	app, err := a.Manager.RemoveApp(r.Context(), caller, ident.AppRef(r.PathValue("app")))
	if err != nil {
		return err
	}
	reply(w, http.StatusAccepted, app)
	return nil
}

func (a *API) instances(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
	list, err := a.Manager.Instances(r.Context(), caller, ident.AppRef(r.URL.Query().Get("app")))
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, managerapi.InstanceList{Version: managerapi.Version, Instances: list})
	return nil
}

func (a *API) removeInstance(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
	out, err := a.Manager.RemoveInstance(r.Context(), caller, ident.InstanceRef(r.PathValue("id")))
	if err != nil {
		return err
	}
	reply(w, http.StatusAccepted, out)
	return nil
}

func (a *API) volumes(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
	list, err := a.Manager.Volumes(r.Context(), caller)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, managerapi.VolumeList{Version: managerapi.Version, Volumes: list})
	return nil
}

func (a *API) removeVolume(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
	id, err := ident.ParseDigest(r.PathValue("id"))
	if err != nil {
		return problem.New(problem.Invalid, problem.RuleVolumeID, "%w", err)
	}
	q := query{values: r.URL.Query()}
	force := q.flag("force")
	if q.err != nil {
		return q.err
	}

	v, err := a.Manager.RemoveVolume(r.Context(), caller, id, force)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, v)
	return nil
}

func (a *API) logs(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
	q := query{values: r.URL.Query()}
	wish := LogQuery{
		Instance:   ident.InstanceRef(r.PathValue("id")),
		LogOptions: LogOptions{Follow: q.flag("follow"), Since: q.time("since"), Tail: q.number("tail", -1)},
		Previous:   q.flag("previous"),
	}
	if q.err != nil {
		return q.err
	}

	s := startStream(w)
	return s.end(a.Manager.Logs(r.Context(), caller, wish, sinkOf[managerapi.LogLine](s)))
}

func (a *API) events(w http.ResponseWriter, r *http.Request, caller ident.KeyHash) error {
	q := query{values: r.URL.Query()}
	wish := EventQuery{
		Since:  uint64(max(q.number("since", 0), 0)),
		App:    ident.AppRef(q.values.Get("app")),
		Follow: q.flag("follow"),
	}
	if q.err != nil {
		return q.err
	}

	s := startStream(w)
	return s.end(a.Manager.Events(r.Context(), caller, wish, sinkOf[managerapi.Event](s)))
}

// sinkOf sends what it is given as lines of the stream.
func sinkOf[T any](s *stream) Sink[T] {
	return Sink[T]{Waits: s.waits, Emit: func(v T) error { return s.send(v) }}
}

// stream writes JSON lines, each sent at once.
type stream struct {
	w     http.ResponseWriter
	flush *http.ResponseController
	begun bool
}

func startStream(w http.ResponseWriter) *stream {
	return &stream{w: w, flush: http.NewResponseController(w)}
}

func (s *stream) begin() {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/jsonl")
		s.w.WriteHeader(http.StatusOK)
	}
}

// waits sends that the stream has begun: its first line may take any time.
func (s *stream) waits() error {
	s.begin()
	return s.flush.Flush()
}

func (s *stream) send(v any) error {
	s.begin()
	if err := json.NewEncoder(s.w).Encode(v); err != nil {
		return err
	}
	return s.flush.Flush()
}

func (s *stream) end(err error) error {
	if err == nil {
		s.begin() // an empty stream is a reply too
	}
	if errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// query reads parameters; the first bad one stays in err.
type query struct {
	values url.Values
	err    error
}

func (q *query) bad(name, want string) {
	if q.err == nil {
		q.err = problem.New(problem.Invalid, ruleParameter, "%s=%.60q", name, q.values.Get(name)).Want("%s", want)
	}
}

func (q *query) flag(name string) bool {
	switch q.values.Get(name) {
	case "", "false":
		return false
	case "true":
		return true
	}
	q.bad(name, "true or false")
	return false
}

func (q *query) number(name string, def int) int {
	s := q.values.Get(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		q.bad(name, "a number")
	}
	return n
}

func (q *query) time(name string) time.Time {
	s := q.values.Get(name)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		q.bad(name, "a time as in RFC 3339")
	}
	return t
}
