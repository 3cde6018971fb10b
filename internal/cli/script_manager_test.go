package cli_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/testing/castest"
	"cupel.dev/cupel/internal/trusted/httpproblem"
	"cupel.dev/cupel/internal/trusted/wire"
)

type scriptManagerKey struct{}

// scriptManager is a manager that says what a script wants it to say, and that
// holds grants at the script's CAS as a real one does. Its deployments are done at
// the second look.
type scriptManager struct {
	server *httptest.Server
	conns  []*castest.Conn // keep instances alive
	remote scriptProvider  // what it is to owners on other machines

	mu        sync.Mutex
	holder    *client.Holder
	count     int                // of instances that it starts
	instances []ident.InstanceID // that it shows
	lies      string             // what it does to that list
	shown     int                // how many instances it says that the app has; 0: the truth
	claims    ident.SessionName  // which session it says that the app runs; empty: the truth
	unclaimed string             // it takes codes, claims none and says this: "done", "unknown" or "gone" (and then knows no app)
	called    string             // what it says that the app is called, without a grant to tell; empty: the truth
	names     *owners.GrantID    // that it says the app runs under; nil: the truth
	drained   func() error       // leads the port to the newest instance, late; nil: it does
	stale     bool               // it pulls nothing and says that it did
	port      uint16             // at which it says that the app is; 0: the truth
	keeps     bool               // it gives no grant back
	strict    bool               // it knows its app by its own name alone, as a real one
	others    []manager.App      // that it has besides, until they are removed
	removes   bool               // what it is told to remove is gone; else that goes on for ever
	cas       *scriptCAS
	puller    ident.Measurement
	python    ident.Measurement
	waits     *problem.Error // what the next deployments wait for first
	fails     *problem.Error // how deployments end
	ends      string         // "now" or "once": how the newest instances' app ended after they were checked
	looks     int
	listed    int // how often the newest deployment's instances were
	session   ident.SessionName
	asked     manager.DeployRequest
	answers   string     // what does at the app's port: as answering.be has it
	shows     *answering // that
	owner     ident.KeyHash
	revision  int
	current   owners.GrantToken // what serves runs under it
	next      owners.GrantToken // of the deployment under way
}

func (m *scriptManager) stop() {
	if m.server != nil {
		m.server.Close()
		m.server = nil
	}
	if m.shows != nil {
		_ = m.shows.listener.Close()
		m.shows = nil
	}
}

// front has an instance answer at the app's port.
func (m *scriptManager) front(reply *wire.ReleaseReply) error {
	files := map[string][]byte{}
	for _, f := range reply.Files {
		files[f.Path] = f.Content
	}
	return m.shows.be(cmp.Or(m.answers, "session"), files["/run/cupel/tls/cert.pem"], files["/run/cupel/tls/key.pem"])
}

// managerCommand is `manager start SESSION N` (which starts N instances, if it may,
// that the script's CAS attests), `manager lie` (one of them is none), `manager
// double` (two of them are the same), `manager oldfront` (the port goes on to lead to
// what ran before), `manager drains` (for a while it does), `manager stale`, `manager
// says N` (that the app has so many instances), `manager names GRANT` (that the app runs
// under), `manager claims SESSION` (that it runs), `manager swallows done|deploying|unknown|gone|""`
// (it claims no code, and says that all is done, or goes on, of an app that there is or not), `manager port N` (where
// it says that the app is), `manager keep` (it gives no grant back), `manager gives`
// (it does again), `manager removes` (what it is told to remove is gone at once), `manager strict` (it knows its
// app by its own name alone), `manager has ID NAME SESSION mine|theirs` (another app, until that is removed), `manager answers WHAT` (from the
// next deployment on; see answering), `manager waits RULE TEXT` (what a deployment
// waits for at first), `manager ends now|once|""` (its app, after it was healthy; once: it is up again), `manager fail KIND RULE`
// and `manager stop`. $APP_PORT is the app's.
func managerCommand(ts *testscript.TestScript, neg bool, args []string) {
	m, ok := ts.Value(scriptManagerKey{}).(*scriptManager)
	cas, running := ts.Value(scriptCASKey{}).(*scriptCAS)
	if !ok || !running || cas.env == nil || neg || len(args) == 0 {
		ts.Fatalf("usage: manager start SESSION N | lie | double | oldfront | drains | stale | says N | names GRANT | claims SESSION | swallows HOW | port N | calls NAME | keep | gives | removes | strict | has ID NAME SESSION WHOSE | answers WHAT | waits RULE TEXT | ends HOW | fail KIND RULE | stop, with a CAS")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch args[0] {
	case "start":
		m.stop()
		var err error
		m.count, err = strconv.Atoi(args[2])
		ts.Check(err)
		m.python, err = ident.ParseMeasurement(ts.Getenv("PYTHON"))
		ts.Check(err)
		m.puller, err = ident.ParseMeasurement(ts.Getenv("PULLER"))
		ts.Check(err)
		key, err := castest.NewKey()
		ts.Check(err)
		ts.Setenv("PROVIDER", key.Hash.String())
		m.holder = &client.Holder{Certificate: key.Cert}
		m.shows, err = newAnswering()
		ts.Check(err)
		ts.Setenv("APP_PORT", strconv.Itoa(int(m.shows.port())))
		m.session, m.cas, m.instances, m.lies = ident.SessionName(args[1]), cas, nil, ""
		m.serve(ts, cas)
	case "lie", "double", "oldfront", "drains":
		m.lies = args[0]
	case "names":
		id, err := owners.ParseGrantID(args[1])
		ts.Check(err)
		m.names = &id
	case "stale":
		m.stale = true
	case "says":
		var err error
		m.shown, err = strconv.Atoi(args[1])
		ts.Check(err)
	case "calls":
		var err error // with what Go writes in quotation marks
		m.called, err = strconv.Unquote(`"` + strings.Trim(args[1], `"`) + `"`)
		ts.Check(err)
	case "port":
		n, err := strconv.ParseUint(args[1], 10, 16)
		ts.Check(err)
		m.port = uint16(n)
	case "claims":
		m.claims = ident.SessionName(args[1])
	case "swallows":
		m.unclaimed = args[1]
	case "keep":
		m.keeps = true
	case "strict":
		m.strict = true
	case "gives":
		m.keeps = false
	case "has": // ID NAME SESSION mine|theirs
		a := manager.App{ID: args[1], Name: args[2], Session: ident.SessionName(args[3]), State: manager.AppReady}
		if args[4] == "mine" {
			a.Owner = m.owner
		}
		m.others = append(m.others, a)
	case "removes":
		m.removes = true
	case "answers":
		m.answers = args[1]
	case "waits":
		m.waits = problem.New(problem.Unavailable, problem.Rule(args[1]), "%s", args[2]).Fix("mend it so")
	case "ends":
		m.ends = args[1]
	case "fail":
		m.fails = problem.New(problem.Kind(args[1]), problem.Rule(args[2]), "it failed").Fix("mend it")
	case "stop":
		m.stop()
	}
}

// release has the CAS attest an instance of a service, under the newest grant.
func (m *scriptManager) release(ctx context.Context, service ident.ServiceName, measurement ident.Measurement) (*wire.ReleaseReply, *castest.Conn, error) {
	in, err := castest.NewInstance(m.cas.env.Instances, m.cas.env.Identity, m.cas.env.Platform, m.session, service, measurement)
	if err != nil {
		return nil, nil, err
	}
	in.Grant = m.next
	conn, reply, err := in.Release(ctx)
	if err != nil {
		return nil, nil, err
	}
	return reply, conn, nil
}

// pull is an attested pull that ends well.
func (m *scriptManager) pull(ctx context.Context) error {
	_, conn, err := m.release(ctx, "pull_repo", m.puller)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Post(wire.PathExit, wire.Exit{Version: wire.ReleaseVersion}, &struct{}{})
}

// deploy claims the request's code and starts what it may.
func (m *scriptManager) deploy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m.looks, m.listed = 0, 0
	m.revision++
	m.next = owners.GrantToken{}
	most := m.count
	if m.asked.Code == "" && !m.asked.Ungranted {
		return problem.New(problem.Denied, "grant_missing", "no code")
	}
	if m.asked.Code != "" {
		code, err := owners.ParseGrantCode(m.asked.Code)
		if err != nil {
			return err
		}
		claimed, err := m.holder.Claim(ctx, ident.Address(m.cas.env.Instances), code)
		if err != nil {
			return err
		}
		m.owner, m.next = claimed.Maker, claimed.Token
		most = claimed.Services[m.serves()].Instances
	}
	if !m.stale {
		if err := m.pull(ctx); err != nil {
			return err
		}
	}
	m.instances = nil
	for range min(m.count, most) {
		reply, conn, err := m.release(ctx, m.serves(), m.python)
		if err != nil {
			return err
		}
		m.instances, m.conns = append(m.instances, reply.InstanceID), append(m.conns, conn)
		switch m.lies {
		case "oldfront":
			continue
		case "drains":
			m.drained = func() error { return m.front(reply) }
			continue
		}
		if err := m.front(reply); err != nil {
			return err
		}
	}
	if m.lies == "lie" {
		m.instances[0] = ident.InstanceID{0xff}
	}
	if m.lies == "double" {
		m.instances[0] = m.instances[1]
	}
	return nil
}

// serves is the service that the newest request is about.
func (m *scriptManager) serves() ident.ServiceName { return cmp.Or(m.asked.Service, "client-app") }

// ended gives back what the deployment leaves over.
func (m *scriptManager) ended(ctx context.Context) error {
	over := m.current
	if m.fails != nil {
		over = m.next
	} else {
		m.current = m.next
	}
	if m.keeps || over.IsZero() {
		return nil
	}
	return m.holder.GiveBack(ctx, ident.Address(m.cas.env.Instances), m.cas.env.Identity, over)
}

func (m *scriptManager) serve(ts *testscript.TestScript, cas *scriptCAS) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+manager.PathApps, func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.asked = manager.DeployRequest{}
		_ = json.NewDecoder(r.Body).Decode(&m.asked)
		if m.asked.Ungranted {
			m.owner = ident.HashCertKey(r.TLS.PeerCertificates[0])
		}
		if m.unclaimed != "" {
			m.looks, m.instances = 2, nil
			m.revision++
			if m.unclaimed == "gone" || m.unclaimed == "deploying" {
				m.looks = 0
			}
			_ = json.NewEncoder(w).Encode(m.app())
			return
		}
		if err := m.deploy(r.Context()); err != nil {
			httpproblem.Write(w, "", err)
			return
		}
		_ = json.NewEncoder(w).Encode(m.app())
	})
	mux.HandleFunc("GET "+manager.PathRuntimes, func(w http.ResponseWriter, _ *http.Request) { // of which none can be used
		damaged := problem.New(problem.Unavailable, "registry_damaged", "read runtimes/puller:latest: the registry has it damaged").Fix("let the operator build it anew: cupel runtime build puller; and look at the disk (dmesg)")
		_ = json.NewEncoder(w).Encode(manager.RuntimeList{Version: manager.Version, Runtimes: []manager.Runtime{{Name: "puller", Problem: damaged}, {Name: "python"}}})
	})
	mux.HandleFunc("GET "+manager.PathApps+"/{app}", func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if strings.HasPrefix(r.PathValue("app"), "app-other") {
			httpproblem.Write(w, "", problem.New(problem.NotFound, "app_unknown", "no such app"))
			return
		}
		if m.unclaimed == "gone" || m.revision == 0 {
			httpproblem.Write(w, "", problem.New(problem.NotFound, "app_unknown", "no such app"))
			return
		}
		if m.unclaimed != "deploying" {
			m.looks++
		}
		if m.looks == 2 {
			if err := m.ended(r.Context()); err != nil {
				httpproblem.Write(w, "", err)
				return
			}
		}
		a := m.app()
		if ref := r.PathValue("app"); ref != a.ID { // whatever it is asked for, it has it
			a.Name = ref
		}
		_ = json.NewEncoder(w).Encode(a)
	})
	mux.HandleFunc("DELETE "+manager.PathApps+"/{app}", func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, a := range m.others {
			if ref := r.PathValue("app"); ref == a.ID || ref == a.Name {
				_ = json.NewEncoder(w).Encode(a)
				return
			}
		}
		if m.revision == 0 {
			httpproblem.Write(w, "", problem.New(problem.NotFound, "app_unknown", "no such app"))
			return
		}
		gone := m.app()
		if ref := r.PathValue("app"); m.strict && ref != gone.ID && ref != gone.Name {
			httpproblem.Write(w, "", problem.New(problem.NotFound, "app", "no app %q", ref).Fix("did you mean %s? See 'cupel ps'", gone.Name))
			return
		}
		if m.removes {
			m.next, m.instances, m.revision = owners.GrantToken{}, nil, 0
			if err := m.ended(r.Context()); err != nil {
				httpproblem.Write(w, "", err)
				return
			}
		}
		_ = json.NewEncoder(w).Encode(gone)
	})
	mux.HandleFunc("GET "+manager.PathEvents, func(http.ResponseWriter, *http.Request) {}) // none
	mux.HandleFunc("GET "+manager.PathApps, func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		list := manager.AppList{Version: manager.Version, Apps: []manager.App{}}
		if m.revision > 0 {
			list.Apps = append(list.Apps, m.app())
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("GET "+manager.PathInstances, func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.unclaimed == "unknown" {
			httpproblem.Write(w, "", problem.New(problem.NotFound, "app_unknown", "no such app"))
			return
		}
		list := manager.InstanceList{Version: manager.Version}
		if m.listed++; m.drained != nil && m.listed > 1 { // whoever asks again has met the old one
			if err := m.drained(); err != nil {
				httpproblem.Write(w, "", err)
				return
			}
			m.drained = nil
		}
		for i, id := range m.instances {
			in := manager.Instance{
				ID: "i-" + strconv.Itoa(i), App: "shop", AppID: "app-1", Role: "app", Revision: m.revision, State: "running", Health: "healthy",
				Memory: 256 << 20, Port: m.shows.port(), InstanceID: id, Attested: true, Simulated: true, CreatedAt: time.Now(),
			}
			m.endApp(&in)
			list.Instances = append(list.Instances, in)
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("GET "+manager.PathInstances+"/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
		for _, line := range []string{"Traceback (most recent call last):", "ModuleNotFoundError: No module named 'flask'"} {
			_ = json.NewEncoder(w).Encode(manager.LogLine{Stream: "stderr", Line: line, Instance: r.PathValue("id")})
		}
	})
	m.server = httptest.NewUnstartedServer(mux)
	m.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	m.remote.routes(m, mux)
	m.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, GetConfigForClient: m.remote.config}
	m.server.StartTLS()
	b, err := json.Marshal(manager.Endpoint{
		Version: manager.Version, Address: m.server.Listener.Addr().String(), CertSHA256: ident.Sum(m.server.Certificate().Raw),
		CAS: manager.CAS{Owners: cas.env.Owners, Instances: cas.env.Instances, Identity: cas.env.Identity}, PID: os.Getpid(),
	})
	ts.Check(err)
	state := ts.Getenv("CUPEL_STATE")
	ts.Check(os.MkdirAll(state, 0o755))
	ts.Check(os.WriteFile(filepath.Join(state, client.EndpointFile), b, 0o600))
}

// endApp shows an instance as one whose app ended since it was looked at first.
func (m *scriptManager) endApp(in *manager.Instance) {
	if m.ends == "" || m.listed < 2 {
		return
	}
	in.Problem = problem.New(problem.Unavailable, "app_ended", "the app ended by itself, with code 0").Fix("let it stay in the foreground")
	switch m.ends {
	case "now":
		in.State, in.Health, in.InstanceID = "waiting", "", ident.InstanceID{}
	case "once":
		in.Restarts, in.StartedAt = 1, time.Now()
	}
}

// app is the app as the next look shows it.
func (m *scriptManager) app() manager.App {
	now := time.Now()
	a := manager.App{
		ID: "app-1", Owner: m.owner, Name: strings.ReplaceAll(string(m.session), "/", "-"), Session: m.session, Service: m.serves(), Runtime: m.asked.Runtime,
		State: manager.AppDeploying, Instances: m.asked.Instances, Memory: 256 << 20, Port: m.shows.port(), ContainerPort: 8080, CreatedAt: now,
		Deployment: manager.Deployment{Revision: m.revision, State: manager.DeploymentRunning, Steps: []manager.Step{{Name: manager.StepImages, StartedAt: now}}},
	}
	if m.shown > 0 {
		a.Instances = m.shown
	}
	if id, _, ok := m.next.Split(); ok {
		a.Deployment.Grant = &id
	}
	if m.called != "" {
		a.Name = m.called
	}
	if m.port != 0 {
		a.Port = m.port
	}
	if m.claims != "" {
		a.Session = m.claims
	}
	if id, _, ok := m.current.Split(); ok && m.called == "" {
		a.Grant = &id
	}
	if m.names != nil {
		a.Grant = m.names
	}
	if m.looks < 2 {
		a.Deployment.Waiting = m.waits
		return a
	}
	if m.fails != nil {
		a.State, a.Deployment.State, a.Deployment.Problem = manager.AppFailed, manager.DeploymentFailed, m.fails
		a.Deployment.Warning = problem.New(problem.Unavailable, "not_committed", "the old instance stored nothing")
		return a
	}
	a.State, a.Healthy, a.Revision, a.Deployment.State = manager.AppReady, len(m.instances), m.revision, manager.DeploymentDone
	a.Deployment.Steps[0].EndedAt = now
	a.Deployment.Steps = append(a.Deployment.Steps, manager.Step{Name: manager.StepHealth, StartedAt: now, EndedAt: now})
	return a
}
