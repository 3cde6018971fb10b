package minrate

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// serve answers with a status, and what write makes of the rest.
func serve(t *testing.T, status int, write func(w io.Writer, flush func(), gone <-chan struct{})) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		flush := func() { _ = http.NewResponseController(w).Flush() }
		flush()
		write(w, flush, r.Context().Done())
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// drips sends a blank every now and then until nobody reads any more.
func drips(w io.Writer, flush func(), _ <-chan struct{}) {
	for {
		if _, err := w.Write([]byte(" ")); err != nil {
			return
		}
		flush()
		time.Sleep(5 * time.Millisecond)
	}
}

// get returns what answers there, to be read.
func get(t *testing.T, transport *Transport, address string) io.Reader {
	t.Helper()
	transport.Transport = &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	res, err := (&http.Client{Transport: transport}).Get(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res.Body
}

// TestTooSlow: an answer that drips, one that goes silent, one that does so after much
// came, and a refusal of what would be followed end, and say how far they came.
func TestTooSlow(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		followed bool
		write    func(w io.Writer, flush func(), gone <-chan struct{})
		least    int64
	}{
		"drips":           {200, false, drips, 1},
		"drips a refusal": {500, true, drips, 1},
		"is silent":       {200, false, func(_ io.Writer, _ func(), gone <-chan struct{}) { <-gone }, 0},
		"silent in its midst": {200, false, func(w io.Writer, flush func(), gone <-chan struct{}) {
			_, _ = w.Write(make([]byte, 2*Least))
			flush()
			<-gone
		}, 2 * Least},
	} {
		t.Run(name, func(t *testing.T) {
			answer := get(t, &Transport{Wait: 100 * time.Millisecond, Followed: c.followed}, serve(t, c.status, c.write))
			n, err := io.Copy(io.Discard, answer)
			late, ok := errors.AsType[*Error](err)
			if !ok || late.Got != n || n < c.least {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
				t.Errorf("%v is no timeout", err)
			}
		})
	}
}

// TestInTime: what comes in time comes whole, however long it takes altogether or its
// reader does something else meanwhile; what is followed may be silent.
func TestInTime(t *testing.T) {
	const wait = 300 * time.Millisecond
	piece := bytes.Repeat([]byte("x"), Least)
	pieces := func(w io.Writer, flush func(), _ <-chan struct{}) {
		for range 8 {
			time.Sleep(wait / 4)
			_, _ = w.Write(piece)
			flush()
		}
	}
	for name, c := range map[string]struct {
		followed bool
		write    func(w io.Writer, flush func(), gone <-chan struct{})
		pause    time.Duration
		want     int
	}{
		"long":       {false, pieces, 0, 8 * Least},
		"read later": {false, func(w io.Writer, _ func(), _ <-chan struct{}) { _, _ = w.Write(piece) }, 2 * wait, Least},
		"followed": {true, func(w io.Writer, _ func(), _ <-chan struct{}) {
			time.Sleep(2 * wait)
			_, _ = w.Write([]byte("at last"))
		}, 0, len("at last")},
	} {
		t.Run(name, func(t *testing.T) {
			answer := get(t, &Transport{Wait: wait, Followed: c.followed}, serve(t, 200, c.write))
			first := make([]byte, 1)
			if _, err := io.ReadFull(answer, first); err != nil {
				t.Fatal(err)
			}
			time.Sleep(c.pause)
			rest, err := io.ReadAll(answer)
			if err != nil || 1+len(rest) != c.want {
				t.Errorf("%d bytes, %v", 1+len(rest), err)
			}
		})
	}
}
