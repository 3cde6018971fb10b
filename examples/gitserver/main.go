// Command gitserver is a private git server for the demo and the tests: bare
// repositories over HTTPS, for whoever has the token. It stands for a hosting
// service that Cupel knows nothing about.
//
// It makes its own CA and certificate in the --tls folder on first use. Clients
// send the token as the password of HTTP Basic authentication, under any user
// name, as they do with the large hosting services. It logs methods, paths and
// codes, never a header.
//
//	gitserver --repositories DIR --tls DIR --token-file FILE [--listen ADDR] [--names a,b] [--address-file FILE]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "gitserver:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	repositories string
	tls          string
	tokenFile    string
	listen       string
	names        []string
	addressFile  string
}

// run reads the flags and serves.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	var o options
	var names string

	fs := flag.NewFlagSet("gitserver", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.repositories, "repositories", "", "folder of bare repositories, served as /NAME.git")
	fs.StringVar(&o.tls, "tls", "", "folder for ca.pem, cert.pem and key.pem, made on first use")
	fs.StringVar(&o.tokenFile, "token-file", "", "file with the token that clients need")
	fs.StringVar(&o.listen, "listen", "127.0.0.1:0", "address to listen on")
	fs.StringVar(&names, "names", "localhost,127.0.0.1,::1", "names and addresses for the certificate")
	fs.StringVar(&o.addressFile, "address-file", "", "file to write the address into, once serving")
	if err := fs.Parse(args); err != nil {
		return err
	}

	if o.repositories == "" || o.tls == "" || o.tokenFile == "" {
		return errors.New("--repositories, --tls and --token-file are needed")
	}

	o.names = strings.Split(names, ",")
	return serve(ctx, o, slog.New(slog.NewTextHandler(stderr, nil)))
}

// serve runs until ctx ends.
func serve(ctx context.Context, o options, log *slog.Logger) error {
	token, err := os.ReadFile(o.tokenFile)
	if err != nil {
		return err
	}

	git, err := backend()
	if err != nil {
		return err
	}

	root, err := filepath.Abs(o.repositories)
	if err != nil {
		return err
	}

	handler, err := newHandler(git, root, strings.TrimSpace(string(token)), log)
	if err != nil {
		return err
	}

	tlsConfig, err := certificate(o.tls, o.names, time.Now())
	if err != nil {
		return err
	}

	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return err
	}

	server := &http.Server{
		Handler:           handler,
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})

	group.Go(func() error {
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		return server.Shutdown(bounded)
	})

	log.Info("serving", "address", ln.Addr().String())
	if o.addressFile != "" {
		if err := writeWhole(o.addressFile, []byte(ln.Addr().String()+"\n"), 0o644); err != nil {
			return errors.Join(err, server.Close(), group.Wait())
		}
	}

	return group.Wait()
}

// backend finds git's own server side.
func backend() (string, error) {
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return "", fmt.Errorf("find git: %w", err)
	}

	path := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find git's HTTP server: %w", err)
	}

	return path, nil
}

// writeWhole writes a file so that nobody ever reads half of it.
func writeWhole(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}

	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
