package client

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/minrate"
)

// answering is a client of a manager that begins each answer with a status, and goes on
// with the same piece, every so often, until nobody reads.
func answering(t *testing.T, status int, piece string, every time.Duration) *Manager {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		for {
			if _, err := io.WriteString(w, piece); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(every)
		}
	}))
	t.Cleanup(s.Close)
	m := NewManager(ident.Address(strings.TrimPrefix(s.URL, "https://")), ManagerOptions{Remote: true, CertSHA256: ident.Sum(s.Certificate().Raw)})
	t.Cleanup(m.Close)
	return m
}

// TestSlowManager: an answer that drips ends whatever was asked for, but for what is
// followed; a refusal of that ends too.
func TestSlowManager(t *testing.T) {
	drip := func(t *testing.T, status int) *Manager {
		t.Helper()
		m := answering(t, status, " ", time.Millisecond)
		for _, c := range []*http.Client{m.http, m.quick, m.patient} {
			transport, ok := c.Transport.(*minrate.Transport)
			if !ok || transport.Wait != minrate.Wait {
				t.Fatal("an answer has no limit")
			}
			transport.Wait = 100 * time.Millisecond
		}
		return m
	}
	none := func(manager.Event) error { return nil }
	for name, c := range map[string]struct {
		status int
		ask    func(ctx context.Context, m *Manager) error
	}{
		"apps":     {200, func(ctx context.Context, m *Manager) error { _, err := m.Apps(ctx); return err }},
		"template": {200, func(ctx context.Context, m *Manager) error { _, err := m.Template(ctx, nil); return err }},
		"deploy": {200, func(ctx context.Context, m *Manager) error {
			_, err := m.Deploy(ctx, manager.DeployRequest{})
			return err
		}},
		"events":           {200, func(ctx context.Context, m *Manager) error { return m.Events(ctx, 0, "", false, none) }},
		"events -f":        {500, func(ctx context.Context, m *Manager) error { return m.Events(ctx, 0, "", true, none) }},
		"apps, a refusal":  {500, func(ctx context.Context, m *Manager) error { _, err := m.Apps(ctx); return err }},
		"logs of instance": {200, func(ctx context.Context, m *Manager) error { return m.Logs(ctx, "i", LogOptions{Tail: -1}, nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.ask(t.Context(), drip(t, c.status))
			p := problem.From(err)
			if p == nil || p.Rule != RuleAway || !strings.Contains(p.Actual, "answers too slowly: ") || !strings.Contains(p.Actual, "came, and not the rest in time") ||
				p.Expected != "the rest of the answer, or at least 128 KiB more of it, within 100 ms" || !strings.Contains(p.Mend, "check the address and the network") {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestEndlessLine: a line without an end is refused before it takes the memory.
func TestEndlessLine(t *testing.T) {
	m := answering(t, 200, strings.Repeat("x", 64<<10), 0)
	for name, err := range map[string]error{
		"logs":      m.Logs(t.Context(), "i", LogOptions{Tail: -1}, nil),
		"logs -f":   m.Logs(t.Context(), "i", LogOptions{Tail: -1, Follow: true}, nil),
		"events":    m.Events(t.Context(), 0, "", false, nil),
		"events -f": m.Events(t.Context(), 0, "", true, nil),
	} {
		if p := problem.From(err); p == nil || p.Rule != "reply" || !strings.Contains(p.Actual, "a line of more than 1048576 bytes") || p.Mend == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLongestLine: the longest piece of a log comes, with each of its bytes escaped.
func TestLongestLine(t *testing.T) {
	line := bytes.Repeat([]byte(`\u0001`), 16<<10)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"line":"` + string(line) + "\"}\n"))
	}))
	defer s.Close()
	m := NewManager(ident.Address(strings.TrimPrefix(s.URL, "https://")), ManagerOptions{CertSHA256: ident.Sum(s.Certificate().Raw)})
	defer m.Close()
	got := 0
	if err := m.Logs(t.Context(), "i", LogOptions{Tail: 1}, func(l manager.LogLine) error { got += len(l.Line); return nil }); err != nil || got != 16<<10 {
		t.Errorf("%d bytes, %v", got, err)
	}
}

// TestMoreThanTheTail: no more lines are taken than were asked for.
func TestMoreThanTheTail(t *testing.T) {
	m := answering(t, 200, `{"line":"x"}`+"\n", 0)
	for _, tail := range []int{0, 10} {
		came := 0
		err := m.Logs(t.Context(), "i", LogOptions{Tail: tail}, func(manager.LogLine) error { came++; return nil })
		if p := problem.From(err); p == nil || p.Rule != "reply" || !strings.Contains(p.Actual, "more lines of a log than it was asked for") || came != tail {
			t.Errorf("%d lines, %v", came, err)
		}
	}
}
