package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"

	"cupel.dev/cupel/internal/operator/watchdog"
	"cupel.dev/cupel/internal/trusted/cas/api"
)

// ruleCASHangs is the event of a CAS that was ended since it hung, and the rule of one
// that doesn't answer.
const ruleCASHangs = "cas_hangs"

// watched is a life of the CAS as the watchdog sees it.
func (c *casProcess) watched(r *running, ask func(context.Context) error) watchdog.Process {
	return watchdog.Process{Name: "the CAS", Rule: ruleCASHangs, PID: r.pid, Ask: ask, Patience: cmp.Or(c.patience, watchdog.Patience)}
}

// answers asks the CAS whether it is there. Whatever it says is an answer, and nothing
// of it is believed.
func (r *running) answers(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", local(r.ready.Owners))
	if err != nil {
		return errors.Join(watchdog.ErrUnreached, err)
	}
	defer func() { _ = conn.Close() }()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+local(r.ready.Owners)+api.PathHealth, nil)
	if err != nil {
		return err
	}
	res, err := (&http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}, //nolint:gosec // see above
	}).RoundTrip(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}
