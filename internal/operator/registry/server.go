package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/sirupsen/logrus"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/filelock"
)

// Server is the embedded registry.
type Server struct {
	dir    string
	app    *handlers.App
	gate   *gate
	logger *slog.Logger
	lock   *os.File // shared while the folder is open, exclusive to collect
}

// Open makes a registry over the folder, which it makes, and removes what no tag
// leads to any more, and uploads that broke off. The library below logs to a logger
// of its own that every user of it in this process shares; its lines go to logger, at
// debug level.
func Open(ctx context.Context, dir string, logger *slog.Logger) (_ *Server, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}

	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, problem.New(problem.Invalid, ruleRegistryFolder, "%w", err).Fix("look what is there (ls -ld) and move it away, or choose another state folder with --state")
	}

	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}

	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()

	if err := filelock.WaitShared(context.Background(), lock); err != nil {
		return nil, fmt.Errorf("registry: lock %s: %w", lock.Name(), err)
	}

	logrus.SetOutput(lineLogger{logger})
	logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true, DisableTimestamp: true})

	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}

	c := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem":  {"rootdirectory": dir},
		"delete":      {"enabled": true},
		"redirect":    {"disable": true},
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	c.HTTP.Secret = hex.EncodeToString(secret)
	c.HTTP.RelativeURLs = true

	defer func() { // the library's constructor panics where others return an error
		if p := recover(); p != nil {
			err = fmt.Errorf("registry: %v", p)
		}
	}()

	app := handlers.NewApp(ctx, c)
	s := &Server{
		dir:    dir,
		app:    app,
		gate:   newGate(app, dir, logger),
		logger: logger,
		lock:   lock,
	}

	if _, err := s.collect(ctx); err != nil {
		logger.Warn("registry keeps what nothing refers to", "error", err)
	}

	return s, nil
}

// maxLine is how much of a line of the library is kept.
const maxLine = 2000

// lineLogger forwards the library's lines.
type lineLogger struct{ logger *slog.Logger }

// Write implements io.Writer.
func (l lineLogger) Write(p []byte) (int, error) {
	line := p[:min(len(p), maxLine)] // it has what a request names
	l.logger.Debug("registry library", "line", strings.TrimSpace(string(line)))
	return len(p), nil
}

// Handler serves the OCI distribution API.
func (s *Server) Handler() http.Handler { return s.gate }

// Serve answers on ln until ctx ends; requests in flight get five seconds.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s.gate,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}

	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close()
		}
	})

	err := srv.Serve(ln)
	if !stop() {
		<-done
	}

	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}

	return fmt.Errorf("registry: %w", err)
}

// Close ends what the library runs in the background.
func (s *Server) Close() error { return errors.Join(s.app.Shutdown(), s.lock.Close()) }

// collect removes what no tag leads to any more. Nobody may write meanwhile, so
// it does nothing, and is not done, while another process has the folder open.
func (s *Server) collect(ctx context.Context) (done bool, err error) {
	if err := filelock.Try(s.lock); err != nil {
		s.logger.Debug("registry in use, garbage stays")
		// A conversion that failed may have given the shared lock up. Without it
		// the folder would not be ours, also while we end.
		return false, filelock.WaitShared(context.Background(), s.lock)
	}
	defer func() { _ = filelock.WaitShared(context.Background(), s.lock) }() // back to the shared lock that is ours

	if _, err := os.Stat(filepath.Join(s.dir, "docker", "registry", "v2", "repositories")); errors.Is(err, os.ErrNotExist) {
		return true, nil
	}

	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: s.dir, MaxThreads: 25})
	_, errs := storage.PurgeUploads(ctx, driver, time.Now().Add(-pushQuiet), true)
	for _, err := range errs {
		s.logger.WarnContext(ctx, "upload that broke off stays", "error", err)
	}

	reg, err := storage.NewRegistry(ctx, driver, storage.EnableDelete)
	if err != nil {
		return false, fmt.Errorf("collect garbage: %w", err)
	}

	if err := storage.MarkAndSweep(ctx, driver, reg, storage.GCOpts{RemoveUntagged: true, Quiet: true}); err != nil {
		return false, s.gate.stored.uncollected(err)
	}

	return true, nil
}

var _ io.Writer = lineLogger{}
