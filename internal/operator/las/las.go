package las

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Inspector looks at what really runs under an instance's id.
type Inspector interface {
	Inspect(ctx context.Context, id ident.AttemptID) (Launched, error)
}

// Launched is what an Inspector found.
type Launched struct {
	PID    int                // of the first process, as this process sees it
	Cgroup cgroup.Path        // path of the instance's control group
	Spec   []byte             // the spec that the low-level runtime read
	Image  launch.ImageConfig // that the root stands on
}

// Platform makes evidence: simtee.Platform.
type Platform interface {
	Quote(l simtee.Launch, reportData evidence.Data64) (evidence.Evidence, error)
}

// Config is what a Server is made of.
type Config struct {
	Inspector Inspector
	Platform  Platform
	Cgroups   *cgroup.Tree
	Listen    func(dir, name string) (*net.UnixListener, error) // node.ListenUnix
	Logger    *slog.Logger
	Now       func() time.Time
}

// Server serves any number of instances.
type Server struct {
	cfg Config

	mu        sync.Mutex
	instances map[ident.AttemptID]*http.Server
	binaries  binaries
}

// New returns a server that listens nowhere yet.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, instances: map[ident.AttemptID]*http.Server{}}
}

// Open implements node.Attester.
func (s *Server) Open(id ident.AttemptID, dir string, configID evidence.Data64) error {
	l, err := s.cfg.Listen(dir, wire.Socket)
	if err != nil {
		return fmt.Errorf("attestation socket of instance %s: %w", id, err)
	}

	server := newHTTPServer(&instanceHandler{
		server:   s,
		id:       id,
		configID: configID,
		limit:    newLimiter(s.cfg.Now, instanceRate),
	}, s.cfg.Logger)
	server.ConnContext = withPeer

	s.mu.Lock()
	old := s.instances[id]
	s.instances[id] = server
	s.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}

	go func() { _ = server.Serve(l) }()
	return nil
}

// Close implements node.Attester.
func (s *Server) Close(id ident.AttemptID) {
	s.mu.Lock()
	server := s.instances[id]
	delete(s.instances, id)
	s.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

// ServeConn answers cupel-cas on one connection, whose other end only that
// process has, until the connection or ctx ends. The caller executed the binary
// with that measurement; the CAS has no launch binding.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, measurement ident.Measurement) error {
	l := &oneConn{conn: conn, done: make(chan struct{})}

	server := newHTTPServer(&casHandler{
		server:      s,
		measurement: measurement,
		limit:       newLimiter(s.cfg.Now, casRate),
	}, s.cfg.Logger)
	// The connection is for the CAS's life, and silent for as long as nobody
	// attests it.
	server.ReadHeaderTimeout = 0
	server.ReadTimeout = 0
	server.IdleTimeout = 0
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			l.end()
		}
	}

	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()

	_ = server.Serve(l) // always an error; the end of the connection is no failure
	<-l.done
	return ctx.Err()
}

func newHTTPServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// oneConn is a listener that accepts one connection.
type oneConn struct {
	conn     net.Conn
	mu       sync.Mutex
	accepted bool
	once     sync.Once
	done     chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	l.mu.Lock()
	first := !l.accepted
	l.accepted = true
	l.mu.Unlock()

	if first {
		return l.conn, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneConn) end() { l.once.Do(func() { close(l.done) }) }

// Close implements net.Listener.
func (l *oneConn) Close() error {
	l.end()
	return nil
}

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
