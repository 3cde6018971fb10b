package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/procfs"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/minrate"
	"cupel.dev/cupel/internal/wording"
)

// EndpointFile is the name of the Endpoint's file in a state folder.
const EndpointFile = "manager.json"

// Bounds of what is read at once.
const (
	maxManagerReply = 16 << 20 // of one reply that isn't a stream
	maxRefusal      = 1 << 20
	// maxLine is of one line of a stream: ten times a piece of a log, of 16 KiB, with each
	// of its bytes written as \u00xx.
	maxLine = 1 << 20
)

// How long an answer may take to begin. Then it has to keep a pace, unless it is followed.
const (
	// changeTimeout is for the answer to a change: the manager may have to ask a CAS first.
	changeTimeout = time.Minute
	// readTimeout is for what the manager reads on its machine, which may be a loaded one.
	readTimeout = 30 * time.Second
)

// ManagerOptions say whom to talk to, and as whom.
type ManagerOptions struct {
	// CertSHA256 is the SHA-256 of the manager's certificate in DER. Without it a
	// public authority has to vouch for the name in the manager's address.
	CertSHA256 ident.Digest
	// Remote says that the manager is another machine's, which the caller can't
	// start: only messages differ.
	Remote bool
	// Source is whose word the manager's problems are: every one that it tells carries it,
	// refusals and those in what it shows. Empty: the caller's own, who operates it.
	Source problem.Source
	// PID is the manager's process, where it is one of this machine: messages say of
	// one that doesn't answer what it does.
	PID int
	// Certificate is the caller's; without one only what is public is answered.
	Certificate *tls.Certificate
}

// Manager is a connection to one manager. An answer of which not each 128 KiB, or the rest, come within
// half a minute is given up; what is followed may be silent for any time.
type Manager struct {
	addr   ident.Address
	away   string // what to do about a manager that doesn't answer
	pid    int    // of one on this machine; 0: it isn't
	source problem.Source
	http   *http.Client
	// quick is for what the manager reads on its machine.
	quick *http.Client
	// patient is for what is followed: its first line may take any time. That a manager
	// does nothing at all, the TLS handshake of each tells.
	patient *http.Client
}

// ReadEndpoint reads where the manager of a state folder listens.
//
// Errors: unavailable with RuleAway where none serves; invalid with state_folder where its file
// can't be used; the rules of a disk that fails.
func ReadEndpoint(state string) (manager.Endpoint, error) {
	var e manager.Endpoint
	path := filepath.Join(state, EndpointFile)
	b, err := atomicfile.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return e, problem.New(problem.Unavailable, RuleAway, "no manager serves under %s", state).
			Fix("start it: cupel up --state %s; or name another folder with --state", wording.ShellWord(state))
	}
	if err != nil {
		return e, explainEndpoint(err, state)
	}

	if err := json.Unmarshal(b, &e); err != nil || e.Address == "" {
		return e, problem.New(problem.Invalid, problem.RuleStateFolder, "%s is damaged", path).Fix("write it anew: cupel up")
	}

	if e.Version != manager.Version {
		return e, problem.New(problem.Invalid, problem.RuleStateFolder, "%s has version %d", path, e.Version).Want("%d", manager.Version).
			Fix("use the cupel of the same release as the cupeld that runs")
	}

	return e, nil
}

// explainEndpoint says what a person can do where what is there can't be read.
func explainEndpoint(err error, state string) error {
	err = diskerror.Explain(err, state, "the state folder")
	if _, explained := errors.AsType[*problem.Error](err); explained {
		return err
	}

	p := problem.New(problem.Invalid, problem.RuleStateFolder, "%w", err)
	if errors.Is(err, os.ErrPermission) {
		return p.Fix("run this as root, or name another folder with --state")
	}

	return p.Fix("look what is there (ls -ld), and name the right folder with --state")
}

// NewManager returns a client of the manager at addr, HOST:PORT. It connects to nobody, and an
// address that is none is refused by the first call.
func NewManager(addr ident.Address, opts ManagerOptions) *Manager {
	c := &Manager{
		addr:   addr,
		away:   "start it: cupel up",
		pid:    opts.PID,
		source: opts.Source,
	}
	if !procfs.Named(c.pid, "cupeld") && !procfs.Hidden(c.pid) { // after a power cut its number may be another program's
		c.pid = 0
	}

	if opts.Remote {
		c.away = "check the address and the network between here and there; whether it runs, its operator knows"
	}

	transport := &http.Transport{
		TLSClientConfig:       tlsConfig(addr, opts),
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: changeTimeout,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}

	quick := transport.Clone()
	quick.ResponseHeaderTimeout = readTimeout

	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &http.Client{Transport: &minrate.Transport{Transport: transport, Wait: minrate.Wait}, CheckRedirect: stay}
	c.quick = &http.Client{Transport: &minrate.Transport{Transport: quick, Wait: minrate.Wait}, CheckRedirect: stay}

	patient := transport.Clone()
	patient.ResponseHeaderTimeout = 0 // one of an earlier release sends no header before the first line
	patient.DisableKeepAlives = true
	c.patient = &http.Client{Transport: &minrate.Transport{Transport: patient, Wait: minrate.Wait, Followed: true}, CheckRedirect: stay}

	return c
}

// HTTP is what the client speaks through: it reaches this manager under the same
// certificate, and nobody else by a redirect.
func (c *Manager) HTTP() *http.Client { return c.http }

// Close drops idle connections.
func (c *Manager) Close() {
	c.http.CloseIdleConnections()
	c.quick.CloseIdleConnections()
	c.patient.CloseIdleConnections()
}

// Info asks what runs where.
func (c *Manager) Info(ctx context.Context) (manager.Info, error) {
	return get[manager.Info](ctx, c, manager.PathInfo, nil)
}

// Runtimes lists the images that the operator offers.
func (c *Manager) Runtimes(ctx context.Context) ([]manager.Runtime, error) {
	l, err := get[manager.RuntimeList](ctx, c, manager.PathRuntimes, nil)
	return l.Runtimes, err
}

// Template returns the operator's session template, which nobody has to trust.
func (c *Manager) Template(ctx context.Context, inputs url.Values) ([]byte, error) {
	r, err := c.do(ctx, c.quick, managerCall{method: http.MethodGet, path: manager.PathTemplate, query: inputs})
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Body.Close() }()
	return c.readAll(ctx, r.Body, maxManagerReply)
}

// Deploy asks for an app, or updates it. It returns when the wish is durable;
// App tells how the deployment goes. Of the manager: what it can't deploy (runtime, memory,
// port, port_taken, code_used, not_owner, …), and what the CAS says of the grant's code.
func (c *Manager) Deploy(ctx context.Context, req manager.DeployRequest) (manager.App, error) {
	req.Version = manager.Version
	return answerOf[manager.App](ctx, c, managerCall{method: http.MethodPost, path: manager.PathApps, body: req})
}

// Apps lists the caller's apps.
func (c *Manager) Apps(ctx context.Context) ([]manager.App, error) {
	l, err := get[manager.AppList](ctx, c, manager.PathApps, nil)
	return l.Apps, err
}

// App returns one app by id or name.
//
// Errors: unavailable with reply where the answer is about another app; of the manager:
// not_found, and denied with not_owner.
func (c *Manager) App(ctx context.Context, ref ident.AppRef) (manager.App, error) {
	a, err := get[manager.App](ctx, c, manager.PathApps+"/"+url.PathEscape(string(ref)), nil)
	return c.about(ref, a, err)
}

// RemoveApp asks for an app's removal; it is gone when App answers NotFound. Its errors are
// those of App.
func (c *Manager) RemoveApp(ctx context.Context, ref ident.AppRef) (manager.App, error) {
	a, err := answerOf[manager.App](ctx, c, managerCall{method: http.MethodDelete, path: manager.PathApps + "/" + url.PathEscape(string(ref))})
	return c.about(ref, a, err)
}

// Instances lists the caller's instances; of one app unless app is empty.
func (c *Manager) Instances(ctx context.Context, app ident.AppRef) ([]manager.Instance, error) {
	q := url.Values{}
	if app != "" {
		q.Set("app", string(app))
	}
	l, err := get[manager.InstanceList](ctx, c, manager.PathInstances, q)
	return l.Instances, err
}

// RemoveInstance eliminates one instance; the app goes on with one fewer. Of the manager:
// not_found, and denied with not_owner.
func (c *Manager) RemoveInstance(ctx context.Context, id ident.InstanceRef) (manager.RemoveInstanceReply, error) {
	return answerOf[manager.RemoveInstanceReply](ctx, c, managerCall{method: http.MethodDelete, path: manager.PathInstances + "/" + url.PathEscape(string(id))})
}

// Volumes lists what is stored of volumes, for the operator: nobody else is answered.
func (c *Manager) Volumes(ctx context.Context) ([]manager.Volume, error) {
	l, err := get[manager.VolumeList](ctx, c, manager.PathVolumes, nil)
	return l.Volumes, err
}

// RemoveVolume removes what is stored of a volume that no app has, for the operator;
// with force also where it isn't known whose it was. Of the manager: volume_unknown, and that
// an app has it.
func (c *Manager) RemoveVolume(ctx context.Context, id ident.Digest, force bool) (manager.Volume, error) {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	return answerOf[manager.Volume](ctx, c, managerCall{method: http.MethodDelete, path: manager.PathVolumes + "/" + id.String(), query: q})
}

// LogOptions selects from an instance's output.
type LogOptions struct {
	Follow   bool
	Since    time.Time // zero: from the oldest kept
	Tail     int       // only so many of the newest lines; negative: all
	Previous bool      // of the run before
}

// Logs calls each for every line of an instance's output, and ends with each's error, if it
// gives one, or with the output. One that breaks off, or has more lines than were asked for,
// is unavailable; of the manager: logs, where there is none.
func (c *Manager) Logs(ctx context.Context, id ident.InstanceRef, opts LogOptions, each func(manager.LogLine) error) error {
	q := url.Values{"tail": {strconv.Itoa(opts.Tail)}}
	if opts.Follow {
		q.Set("follow", "true")
	}
	if opts.Previous {
		q.Set("previous", "true")
	}
	if !opts.Since.IsZero() {
		q.Set("since", opts.Since.Format(time.RFC3339Nano))
	}

	if opts.Tail < 0 || opts.Follow { // of what is followed, nobody knows how many come
		return stream(ctx, c, manager.PathInstances+"/"+url.PathEscape(string(id))+"/logs", q, each)
	}

	came := 0
	return stream(ctx, c, manager.PathInstances+"/"+url.PathEscape(string(id))+"/logs", q, func(l manager.LogLine) error {
		if came++; came > opts.Tail {
			return c.tooMuch("more lines of a log than it was asked for").Want("at most %d", opts.Tail)
		}
		return each(l)
	})
}

// Events calls each for every event after since, of one app unless it is empty; with follow
// until ctx ends. It ends with each's error, if it gives one.
func (c *Manager) Events(ctx context.Context, since uint64, app ident.AppRef, follow bool, each func(manager.Event) error) error {
	q := url.Values{"since": {strconv.FormatUint(since, 10)}}
	if app != "" {
		q.Set("app", string(app))
	}
	if follow {
		q.Set("follow", "true")
	}

	return stream(ctx, c, manager.PathEvents, q, each)
}

// managerCall is one request to a manager.
type managerCall struct {
	method string
	path   string
	query  url.Values
	body   any // as JSON; nil: none
}

func get[T any](ctx context.Context, c *Manager, path string, query url.Values) (T, error) {
	return answerOf[T](ctx, c, managerCall{method: http.MethodGet, path: path, query: query})
}

// answerOf makes a call and reads its whole answer.
func answerOf[T any](ctx context.Context, c *Manager, q managerCall) (T, error) {
	var out T
	asked := c.http
	if q.method == http.MethodGet {
		asked = c.quick
	}

	r, err := c.do(ctx, asked, q)
	if err != nil {
		return out, err
	}
	defer func() { _ = r.Body.Close() }()

	b, err := c.readAll(ctx, r.Body, maxManagerReply)
	if err != nil {
		return out, err
	}

	if err := json.Unmarshal(b, &out); err != nil {
		return out, c.badReply(b, &out, err)
	}

	return out, c.told(reflect.ValueOf(&out))
}

// readAll reads an answer that isn't a stream.
func (c *Manager) readAll(ctx context.Context, body io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, most+1))
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if int64(len(b)) > most {
		return nil, c.tooMuch("more than %d bytes", most).Want("at most that many")
	}

	return b, nil
}

// tooMuch is the problem of an answer that is longer than one can be.
func (c *Manager) tooMuch(format string, args ...any) *problem.Error {
	return problem.New(problem.Unavailable, problem.RuleReply, "the manager at %s answers %s", c.addr, fmt.Sprintf(format, args...)).
		Fix("check that nothing else answers in its place, such as a proxy; else ask whoever runs it")
}

// badReply says of an answer that can't be read whose it is, and what is wrong with it.
func (c *Manager) badReply(b []byte, v any, err error) error {
	return problem.BadReply("the manager at "+string(c.addr), b, v, err)
}

// broken is the problem of an answer that ended in the middle, or was given up there.
func (c *Manager) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if refusal, ok := errors.AsType[*problem.Error](err); ok {
		return refusal
	}
	if _, slow := errors.AsType[*minrate.Error](err); slow {
		return c.silent(err)
	}

	return problem.New(problem.Unavailable, RuleAway, "the manager went away: %w", err).Fix("%s", c.away)
}

// do makes one request and returns a successful reply.
func (c *Manager) do(ctx context.Context, asked *http.Client, q managerCall) (*http.Response, error) {
	var payload io.Reader
	if q.body != nil {
		b, err := json.Marshal(q.body)
		if err != nil {
			return nil, fmt.Errorf("write request: %w", err)
		}
		payload = bytes.NewReader(b)
	}

	target := "https://" + string(c.addr) + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}

	req, err := http.NewRequestWithContext(ctx, q.method, target, payload)
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	if q.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}

	if procfs.Stopped(c.pid) {
		return nil, c.silent(errStopped)
	}

	r, err := asked.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if p, ok := errors.AsType[*problem.Error](err); ok {
			return nil, p
		}
		return nil, c.silent(cause(err))
	}

	if r.StatusCode/100 != 2 {
		defer func() { _ = r.Body.Close() }()
		b, err := c.readAll(ctx, r.Body, maxRefusal)
		if err != nil {
			return nil, err
		}
		p := problem.Read(r.StatusCode, b)
		p.Source = c.source
		return nil, c.notManager(p)
	}

	return r, nil
}

// notManager says of a refusal that no manager gives what answers in its place: every
// path that this client asks for is there.
func (c *Manager) notManager(p *problem.Error) *problem.Error {
	const want = "the manager's API; its port is 5000 unless its operator chose another"
	switch p.Rule {
	case problem.RulePath:
		return problem.New(problem.NotFound, ruleManagerAddress, "what answers at %s is another API than the manager's: %s", c.addr, p.Actual).
			Want(want).Fix("give the manager's address; a manager of an older release may lack what was asked for")
	case problem.RuleReply:
		return problem.New(problem.Unavailable, ruleManagerAddress, "what answers at %s is no manager of Cupel's: %s", c.addr, p.Actual).
			Want(want).Fix("check the address, and that nothing else answers there, such as a proxy")
	}
	return p
}

var errStopped = errors.New("it is stopped (SIGSTOP, or a debugger), and does nothing")

// silent says of a manager that gave no answer what is known of it.
func (c *Manager) silent(err error) error {
	if procfs.Stopped(c.pid) {
		return problem.New(problem.Unavailable, RuleAway, "the manager at %s, cupeld (process %d), doesn't answer: %w", c.addr, c.pid, errStopped).
			Fix("as root: kill -CONT %d lets it go on; or kill -9 %d, then cupel up: apps go on", c.pid, c.pid)
	}

	p := problem.New(problem.Unavailable, RuleAway, "the manager at %s doesn't answer: %w", c.addr, err)
	if slow, ok := errors.AsType[*minrate.Error](err); ok {
		p = problem.New(problem.Unavailable, RuleAway, "the manager at %s answers too slowly: %w", c.addr, err).Want("%s", slow.Want())
	}

	late, ok := errors.AsType[net.Error](err)
	_, gone := procfs.Of(c.pid)
	hidden := procfs.Hidden(c.pid)

	switch {
	case gone != nil && !hidden, !ok, !late.Timeout():
		return p.Fix("%s", c.away)
	case hidden:
		return p.Fix("process %d, which cupeld was, is there, and /proc hides from you what it is (hidepid): try again; if it stays silent, run this as root, which sees more", c.pid)
	}

	return p.Fix("cupeld (process %d) runs: try again; if it stays silent, as root: kill -9 %d, then cupel up: apps go on", c.pid, c.pid)
}

// cause drops the method and address that net/http puts before an error.
func cause(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// stream reads JSON lines. A stream that ends in the middle is an error.
func stream[T any](ctx context.Context, c *Manager, path string, q url.Values, each func(T) error) error {
	asked := c.quick
	if q.Get("follow") != "" {
		asked = c.patient
	}

	r, err := c.do(ctx, asked, managerCall{method: http.MethodGet, path: path, query: q})
	if err != nil {
		return err
	}
	defer func() { _ = r.Body.Close() }()

	lines := bufio.NewReader(r.Body)
	for {
		raw, err := c.line(lines)
		if len(raw) > 0 && err == nil {
			var v T
			if err := json.Unmarshal(raw, &v); err != nil {
				return c.badReply(raw, &v, err)
			}
			if err := c.told(reflect.ValueOf(&v)); err != nil {
				return err
			}
			if err := each(v); err != nil {
				return err
			}
		}

		switch {
		case errors.Is(err, io.EOF) && len(raw) > 0:
			return c.broken(ctx, io.ErrUnexpectedEOF)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.broken(ctx, err)
		}
	}
}

// line reads one line of a stream, with its end.
func (c *Manager) line(from *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		piece, err := from.ReadSlice('\n')
		line = append(line, piece...)
		if len(line) > maxLine {
			return nil, c.tooMuch("a line of more than %d bytes", maxLine).Want("lines of at most that many")
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
