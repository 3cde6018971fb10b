package las

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/httpproblem"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/wire"
)

const maxRequest = 4 << 10

// instanceHandler answers on one instance's socket.
type instanceHandler struct {
	server   *Server
	id       ident.AttemptID
	configID evidence.Data64
	limit    *limiter
}

func (h *instanceHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply(w, r, h.limit, func(ctx context.Context, q wire.QuoteRequest) (evidence.Evidence, error) {
		pid, ok := ctx.Value(peerKey{}).(int)
		if !ok {
			return evidence.Evidence{}, refused("the peer is unknown")
		}

		measurement, err := h.server.measure(ctx, h.id, pid)
		if err != nil {
			h.server.cfg.Logger.WarnContext(ctx, "evidence refused", "instance", h.id, "pid", pid, "error", err)
			return evidence.Evidence{}, err
		}
		h.server.cfg.Logger.InfoContext(ctx, "evidence made", "instance", h.id, "measurement", measurement.String())

		return h.server.cfg.Platform.Quote(simtee.Launch{
			Measurement: measurement,
			Signer:      simtee.Signer(),
			ConfigID:    h.configID,
			Debug:       true,
		}, q.ReportData)
	})
}

// measure checks that pid is the instance's launcher and returns the
// measurement of the instance's launch.
func (s *Server) measure(ctx context.Context, id ident.AttemptID, pid int) (ident.Measurement, error) {
	launched, err := s.cfg.Inspector.Inspect(ctx, id)
	if p, ok := errors.AsType[*problem.Error](err); ok && p.Rule == RuleProcess {
		return ident.Measurement{}, p // it says more than that the launch was looked at
	}
	if err != nil {
		return ident.Measurement{}, problem.New(problem.Denied, ruleLASLaunch, "look at the instance: %w", err)
	}

	// Who asks has to be the instance's first process, in the instance's control group.
	if pid <= 0 || pid != launched.PID {
		return ident.Measurement{}, refused("process %d is not this instance's launcher", pid)
	}
	member, err := cgroup.MembershipOf(pid)
	if err != nil {
		return ident.Measurement{}, refused("process %d: %v", pid, err)
	}
	if !s.cfg.Cgroups.In(member, launched.Cgroup) {
		return ident.Measurement{}, refused("process %d is not in the instance's control group", pid)
	}

	launcher, err := s.binaries.digest(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ident.Measurement{}, refused("process %d: %v", pid, err)
	}

	m, err := launch.Measure(launched.Spec, launched.Image, launcher)
	if err != nil {
		return ident.Measurement{}, problem.New(problem.Denied, ruleLASLaunch, "measure the launch: %w", err)
	}
	return m, nil
}

// refused is the refusal of a process that may not have this instance's evidence.
func refused(format string, args ...any) error {
	return problem.New(problem.Denied, ruleLASPeer, format, args...).
		Want("the launcher, which is the instance's first process")
}

// casHandler answers cupel-cas.
type casHandler struct {
	server      *Server
	measurement ident.Measurement
	limit       *limiter
}

func (h *casHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply(w, r, h.limit, func(_ context.Context, q wire.QuoteRequest) (evidence.Evidence, error) {
		return h.server.cfg.Platform.Quote(simtee.Launch{
			Measurement: h.measurement,
			Signer:      simtee.Signer(),
			Debug:       true,
		}, q.ReportData)
	})
}

// reply reads a request within its limits and writes what f makes of it.
func reply(w http.ResponseWriter, r *http.Request, limit *limiter, f func(context.Context, wire.QuoteRequest) (evidence.Evidence, error)) {
	q, err := readRequest(w, r, limit)
	if err != nil {
		httpproblem.Write(w, "", err)
		return
	}

	evidence, err := f(r.Context(), q)
	if err != nil {
		httpproblem.Write(w, "", err)
		return
	}

	b, err := json.Marshal(evidence)
	if err != nil {
		httpproblem.Write(w, "", fmt.Errorf("encode evidence: %w", err))
		return
	}

	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

func readRequest(w http.ResponseWriter, r *http.Request, limit *limiter) (wire.QuoteRequest, error) {
	var q wire.QuoteRequest
	if r.URL.Path != wire.PathQuote || r.Method != http.MethodPost {
		return q, problem.New(problem.NotFound, ruleLASPath, "%s %q", r.Method, r.URL.Path).Want("POST %s", wire.PathQuote)
	}

	if !limit.take() {
		return q, problem.New(problem.Unavailable, ruleLASRate, "too many requests for evidence").
			Want("at most %v at once and %v a second", limit.rate.burst, limit.rate.perSecond).Fix("wait a second")
	}

	var body bytes.Buffer
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxRequest)); err != nil {
		return q, problem.New(problem.Invalid, ruleLASRequest, "request: %w", err)
	}

	d := json.NewDecoder(&body)
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return q, problem.New(problem.Invalid, ruleLASRequest, "request: %w", err)
	}
	if q.Version != 1 {
		return q, problem.New(problem.Invalid, ruleLASRequest, "version %d", q.Version).Want("1")
	}
	return q, nil
}

// peerKey is under what a connection's context has the number of the process that
// connected.
type peerKey struct{}

// withPeer notes who connected: the kernel recorded it at connect time (SO_PEERCRED, unix(7)).
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}

	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}

	var cred *unix.Ucred
	if err := raw.Control(func(fd uintptr) {
		cred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || cred == nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, int(cred.Pid))
}

// rate is how many requests are answered: burst at once, perSecond for long.
type rate struct{ burst, perSecond float64 }

var (
	instanceRate = rate{16, 4}   // a launcher asks once for each handshake
	casRate      = rate{512, 64} // one for each owner that attests the CAS
)

// limiter is a bucket of tokens that fills with time; each request takes one.
type limiter struct {
	now  func() time.Time
	rate rate

	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func newLimiter(now func() time.Time, r rate) *limiter {
	return &limiter{
		now:    now,
		rate:   r,
		tokens: r.burst,
		last:   now(),
	}
}

// take reports whether another request may be answered now, and counts it.
func (l *limiter) take() bool {
	l.mu.Lock()
	defer l.mu.Unlock()

	now := l.now()
	if d := now.Sub(l.last).Seconds(); d > 0 {
		l.tokens = min(l.rate.burst, l.tokens+d*l.rate.perSecond)
	}
	l.last = now

	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}
