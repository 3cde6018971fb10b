package manager

import (
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

// Version is the API's version; requests and replies carry it.
const Version = 1

// Paths of the API.
const (
	PathInfo      = "/v1/info"                                          // GET Info
	PathRuntimes  = "/v1/runtimes"                                      // GET RuntimeList
	PathTemplate  = "/v1/template"                                      // GET ?runtime=&command=…, YAML
	PathSources   = "/v2/runtimes/{runtime}/sources/{kind}/{reference}" // GET as of an OCI registry: manifests and blobs
	PathApps      = "/v1/apps"                                          // GET AppList; POST DeployRequest -> App
	PathInstances = "/v1/instances"                                     // GET ?app=, InstanceList
	PathVolumes   = "/v1/volumes"                                       // GET VolumeList; DELETE /{id}?force=, Volume: the operator's
	PathEvents    = "/v1/events"                                        // GET ?since=&app=&follow=, Event a line
	PathOpenAPI   = "/v1/openapi.yaml"                                  // GET
	PathHealth    = "/v1/health"                                        // GET, no certificate needed
)

// Endpoint says where something listens; what `cupeld up` writes to
// manager.json in its state folder, readable by everybody on the machine.
type Endpoint struct {
	Version    int          `json:"version"`
	Address    string       `json:"address"`     // of the manager's API, host:port
	CertSHA256 ident.Digest `json:"cert_sha256"` // of its certificate in DER
	CAS        CAS          `json:"cas"`
	Registry   string       `json:"registry"` // host:port
	PID        int          `json:"pid"`
	// Outside is the machine's own address on its way to the world, by which other
	// machines may reach what is open to them, as apps are; empty: it has none.
	Outside string `json:"outside,omitempty"`
	// Simulation is the SHA-256 of the simulated platform's root certificate;
	// absent on real hardware. Information only: nobody may trust it.
	Simulation *ident.Digest `json:"simulation,omitempty"`
}

// CAS is where a CAS listens and who it is.
type CAS struct {
	Owners    string        `json:"owners"`    // owners' API, host:port
	Instances string        `json:"instances"` // instances' API, host:port
	Identity  ident.KeyHash `json:"identity"`
}

// Info is what a manager says about itself.
type Info struct {
	Version    int           `json:"version"`
	Release    string        `json:"release"`
	Backend    string        `json:"backend"` // "nodes"
	CAS        CAS           `json:"cas"`
	Registry   string        `json:"registry"`
	Simulation *ident.Digest `json:"simulation,omitempty"`
	Operator   bool          `json:"operator"` // the caller may see and remove everything
	// OperatorKey is the key by which this manager claims grants.
	OperatorKey ident.KeyHash `json:"operator_key"`
	Parts       []Part        `json:"parts"`
}

func (i Info) lacks() string { return lacking(field{"version", i.Version == 0}) }

// Part is one process or listener that serves.
type Part struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Note    string `json:"note,omitempty"`
}

// Runtime is an image that the operator offers to run apps on.
type Runtime struct {
	Name        string            `json:"name"`
	Image       string            `json:"image"`
	Measurement ident.Measurement `json:"measurement"` // the operator's word: rebuild it to know
	LockDigest  ident.Digest      `json:"lock_digest"`
	IndexDate   time.Time         `json:"index_date,omitzero"` // of the package index that it was resolved from

	// Problem is why no instance of it can be started now; then it has no image, and its
	// measurement is zero.
	Problem *problem.Error `json:"problem,omitempty"`
}

// RuntimeList is the reply of GET /v1/runtimes.
type RuntimeList struct {
	Version  int       `json:"version"`
	Runtimes []Runtime `json:"runtimes"`
}

func (l RuntimeList) lacks() string { return lacking(field{"version", l.Version == 0}) }

// DeployRequest asks for a session to run. The same owner's second request for
// the same session updates the app.
type DeployRequest struct {
	Version       int               `json:"version"`
	Session       ident.SessionName `json:"session"`
	Name          string            `json:"name,omitempty"` // the app's; default: made from the session's
	Runtime       string            `json:"runtime"`
	Instances     int               `json:"instances,omitempty"`      // 1 to 100; 0: as the app has it, else 1
	Memory        uint64            `json:"memory,omitempty"`         // of each instance, in bytes; 0: as the app has it, else 256 MiB
	Port          uint16            `json:"port,omitempty"`           // public; 0: as the app has it, else the next free one
	ContainerPort uint16            `json:"container_port,omitempty"` // inside; 0: as the app has it, else 8080
	Service       ident.ServiceName `json:"service,omitempty"`        // default: as the app has it, else what the grant lets serve, else client-app
	PullService   ident.ServiceName `json:"pull_service,omitempty"`   // default: as the app has it, else pull_repo
	CAS           *CASRef           `json:"cas,omitempty"`            // default: the manager's own
	// Code is the code of a grant to run the session, which the manager claims.
	// The app belongs to the key that made the grant. It is a secret.
	Code string `json:"code,omitempty"`
	// Ungranted says that the session asks for no grant (deploy: [ANY]). The CAS
	// refuses every copy if that is wrong. The app belongs to the caller.
	Ungranted bool `json:"ungranted,omitempty"`
	// Writes are the volumes that the service writes, with Ungranted; the CAS
	// says it where there is a grant.
	Writes []string `json:"writes,omitempty"`
}

// CASRef names the CAS that holds the session: where instances reach it, and
// who it is.
type CASRef struct {
	Instances string        `json:"instances"` // host:port
	Identity  ident.KeyHash `json:"identity"`
}

// AppName is what an app is called that nobody gave a name: it is made out of
// the session's.
func AppName(s ident.SessionName) string {
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, string(s))

	out = strings.Trim(out[max(0, len(out)-40):], "-")
	if out == "" {
		return "app"
	}

	return out
}

// ValidName says whether s may be the name of an app. The ids of apps and instances are of
// the same form.
func ValidName(s string) bool {
	return len(s) <= 40 && s != "" && s == AppName(ident.SessionName(s))
}

// DeployCommand is what the owner of an app types to deploy it as it is called:
// without its name another app of the same session would begin.
func DeployCommand(s ident.SessionName, app ident.AppRef) string {
	if string(app) == AppName(s) {
		return "cupel deploy " + string(s)
	}
	return "cupel deploy " + string(s) + " --name " + string(app)
}

// AppState sums an app up in one word.
type AppState string

// States of an app.
const (
	AppDeploying AppState = "deploying" // a deployment is under way
	AppReady     AppState = "ready"     // as many instances as asked for are healthy
	AppDegraded  AppState = "degraded"  // serving, with fewer healthy instances than asked for
	AppDown      AppState = "down"      // no healthy instance
	AppFailed    AppState = "failed"    // its first deployment failed
	AppRemoving  AppState = "removing"
)

// App is one deployed session.
type App struct {
	ID            string            `json:"id"`
	Name          string            `json:"name"`
	Owner         ident.KeyHash     `json:"owner"` // the key that created it
	Session       ident.SessionName `json:"session"`
	Service       ident.ServiceName `json:"service"`
	Runtime       string            `json:"runtime"`
	State         AppState          `json:"state"`
	Instances     int               `json:"instances"` // asked for
	Healthy       int               `json:"healthy"`
	Memory        uint64            `json:"memory"`
	Port          uint16            `json:"port"`
	ContainerPort uint16            `json:"container_port"`
	Revision      int               `json:"revision"` // that serves; 0: none yet
	Deployment    Deployment        `json:"deployment"`
	// Grant is the one that the serving revision runs under.
	Grant *owners.GrantID `json:"grant,omitempty"`
	// Problem is what only the app's owner can mend.
	Problem   *problem.Error `json:"problem,omitempty"`
	CreatedAt time.Time      `json:"created_at"`
}

func (a App) names() []string { return []string{a.ID, a.Name} }

func (a App) lacks() string {
	return lacking(field{"id", a.ID == ""}, field{"name", a.Name == ""}, field{"session", a.Session == ""})
}

// Is reports whether somebody means this app by its id or name.
func (a App) Is(ref ident.AppRef) bool { return a.ID == string(ref) || a.Name == string(ref) }

// AppList is the reply of GET /v1/apps.
type AppList struct {
	Version int   `json:"version"`
	Apps    []App `json:"apps"`
}

func (l AppList) lacks() string { return lacking(field{"version", l.Version == 0}) }

// DeploymentState is how the newest deployment of an app stands.
type DeploymentState string

// States of a deployment.
const (
	DeploymentRunning DeploymentState = "running"
	DeploymentDone    DeploymentState = "done"
	DeploymentFailed  DeploymentState = "failed"
)

// Deployment is the newest deployment of an app.
type Deployment struct {
	Revision int             `json:"revision"`
	State    DeploymentState `json:"state"`
	Steps    []Step          `json:"steps"`
	Problem  *problem.Error  `json:"problem,omitempty"` // why it failed
	Waiting  *problem.Error  `json:"waiting,omitempty"` // what it is trying again after
	Warning  *problem.Error  `json:"warning,omitempty"` // what went wrong without ending it
	// Grant is the one that it was asked for under.
	Grant *owners.GrantID `json:"grant,omitempty"`
	// GapSeconds is for how long nothing served, where the app writes a volume
	// and is therefore stopped before its next revision starts.
	GapSeconds float64 `json:"gap_seconds,omitempty"`
}

// Steps of a deployment, in their order.
const (
	StepImages = "images" // bring the images here
	StepPull   = "pull"   // clone the repository into the encrypted volume, inside
	StepStop   = "stop"   // stop the revision before, where the app writes a volume
	StepStart  = "start"  // start the instances
	StepAttest = "attest" // wait until the CAS released to each
	StepHealth = "health" // wait until each accepts connections
	StepSwitch = "switch" // lead the public port to them
	StepDrain  = "drain"  // stop the revision before
)

// Step is one step of a deployment.
type Step struct {
	Name      string    `json:"name"`
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"` // zero: under way, or failed
	Done      int       `json:"done,omitempty"`    // of Of
	Of        int       `json:"of,omitempty"`
}

// Instance is one instance, over its restarts.
type Instance struct {
	ID         string           `json:"id"`
	App        string           `json:"app"` // name
	AppID      string           `json:"app_id"`
	Role       string           `json:"role"` // "app" or "pull"
	Revision   int              `json:"revision"`
	State      string           `json:"state"` // waiting, starting, running, stopping, exited
	Phase      string           `json:"phase,omitempty"`
	Health     string           `json:"health,omitempty"`
	Restarts   int              `json:"restarts"`
	Memory     uint64           `json:"memory"`
	MemoryUsed uint64           `json:"memory_used"`
	Port       uint16           `json:"port,omitempty"` // public
	IP         string           `json:"ip,omitempty"`
	InstanceID ident.InstanceID `json:"instance_id"` // at the CAS; zero before it attested
	Attested   bool             `json:"attested"`    // the operator's word
	Simulated  bool             `json:"simulated"`   // on a simulated platform
	ExitCode   int              `json:"exit_code,omitempty"`
	OOMKilled  bool             `json:"oom_killed,omitempty"`
	Problem    *problem.Error   `json:"problem,omitempty"` // of the newest failure
	CreatedAt  time.Time        `json:"created_at"`
	StartedAt  time.Time        `json:"started_at,omitzero"`
	NextStart  time.Time        `json:"next_start,omitzero"` // with State waiting
}

func (i Instance) names() []string { return []string{i.ID, i.App, i.AppID} }

func (i Instance) lacks() string {
	return lacking(field{"id", i.ID == ""}, field{"app", i.App == ""}, field{"app_id", i.AppID == ""})
}

// InstanceList is the reply of GET /v1/instances.
type InstanceList struct {
	Version   int        `json:"version"`
	Instances []Instance `json:"instances"`
}

func (l InstanceList) lacks() string { return lacking(field{"version", l.Version == 0}) }

// RemoveInstanceReply tells what the removal of one instance left.
type RemoveInstanceReply struct {
	Version   int    `json:"version"`
	App       string `json:"app"`
	Instances int    `json:"instances"` // asked for from now on
}

func (r RemoveInstanceReply) names() []string { return []string{r.App} }

func (r RemoveInstanceReply) lacks() string { return lacking(field{"app", r.App == ""}) }

// Volume is what the operator's disk holds of one volume: ciphertext.
type Volume struct {
	ID         ident.Digest `json:"id"`
	Generation uint64       `json:"generation"` // the newest; which one the CAS took is not known here
	Size       int64        `json:"size"`       // in bytes
	Used       time.Time    `json:"used"`       // when an instance last read or stored it
	Apps       []string     `json:"apps"`       // that are there and used it
	Before     []string     `json:"before"`     // that used it and were removed
}

// VolumeList is the reply of GET /v1/volumes.
type VolumeList struct {
	Version int      `json:"version"`
	Volumes []Volume `json:"volumes"`
}

func (l VolumeList) lacks() string { return lacking(field{"version", l.Version == 0}) }

// ReasonNotCommitted is the reason of an event about an instance that ended and
// kept nothing of what it wrote to its volumes.
const ReasonNotCommitted = "instance_not_committed"

// Event is one decision or observation of the manager.
type Event struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	AppID    string    `json:"app_id,omitempty"`
	App      string    `json:"app,omitempty"`
	Instance string    `json:"instance,omitempty"`
	Reason   string    `json:"reason"` // short, stable, snake_case: "instance_restarting"
	Message  string    `json:"message"`
	Warning  bool      `json:"warning,omitempty"`
}

func (e Event) names() []string { return []string{e.AppID, e.App, e.Instance} }

func (e Event) lacks() string { return lacking(field{"reason", e.Reason == ""}) }

// LogLine is one line of an instance's output, or a piece of one that is too long to be
// kept whole.
type LogLine struct {
	Time     time.Time `json:"time"`
	Stream   string    `json:"stream"`
	Line     string    `json:"line"`
	Partial  bool      `json:"partial,omitempty"` // it goes on with the next of the instance's stream
	Instance string    `json:"instance,omitempty"`
}
