package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cgi"
	"os"
	"slices"
	"time"
)

// maxPush bounds what a push may send in one go.
const maxPush = 256 << 20

// newHandler serves the bare repositories under root through git's HTTP
// backend, for reading and pushing.
func newHandler(backend, root, token string, log *slog.Logger) (http.Handler, error) {
	if token == "" {
		return nil, errors.New("the token is empty")
	}

	git := &cgi.Handler{
		Path: backend,
		Root: "/",
		Dir:  root,
		Env: []string{
			"GIT_PROJECT_ROOT=" + root,
			"GIT_HTTP_EXPORT_ALL=1",
			"REMOTE_USER=owner",
			"GIT_CONFIG_NOSYSTEM=1",
			"GIT_CONFIG_COUNT=2",
			"GIT_CONFIG_KEY_0=http.receivepack", "GIT_CONFIG_VALUE_0=true",
			"GIT_CONFIG_KEY_1=safe.directory", "GIT_CONFIG_VALUE_1=*",
		},
		InheritEnv: []string{"PATH", "HOME"},
		Stderr:     io.Discard, // git's words may quote what clients sent
	}

	want := sha256.Sum256([]byte(token))

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			log.Info("request", "method", r.Method, "path", r.URL.Path, "status", sw.status, "took", time.Since(begin).Round(time.Millisecond))
		}()

		_, password, _ := r.BasicAuth()
		got := sha256.Sum256([]byte(password))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			sw.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(sw, "a token is needed", http.StatusUnauthorized)
			return
		}

		if err := bounded(r); err != nil {
			http.Error(sw, "request too large", http.StatusRequestEntityTooLarge)
			return
		}

		defer func() { _ = r.Body.Close() }()
		// Git has no use for it, and its environment is open to the machine's root.
		r.Header.Del("Authorization")
		git.ServeHTTP(sw, r)
	}), nil
}

// bounded gives a body of unknown length its length: CGI needs one (RFC 3875 section
// 4.1.2), and git sends large packs without. The body waits in a nameless file.
func bounded(r *http.Request) error {
	if !slices.Contains(r.TransferEncoding, "chunked") {
		if r.ContentLength > maxPush {
			return errors.New("too large")
		}
		return nil
	}

	f, err := os.CreateTemp("", "gitserver-*")
	if err != nil {
		return err
	}

	if err := os.Remove(f.Name()); err != nil {
		return errors.Join(err, f.Close())
	}

	n, err := io.Copy(f, io.LimitReader(r.Body, maxPush+1))
	if err == nil && n > maxPush {
		err = errors.New("too large")
	}

	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}

	if err != nil {
		return errors.Join(err, f.Close())
	}

	r.Body = f
	r.ContentLength = n
	r.TransferEncoding = nil
	return nil
}

// statusWriter remembers the code for the log.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(code int) {
	w.status = code
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap gives http.ResponseController what we wrap.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
