package minrate

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"cupel.dev/cupel/api/problem"
)

// Least is how many bytes of an answer have to come within a Transport's Wait.
const Least = 128 << 10

// Wait is the time for them that suits answers which come one at a time: it lets through
// what comes over a modem.
const Wait = 30 * time.Second

// Transport makes requests through another one, and ends their answers if they come too
// slowly: the reader of a body gets an [Error]. It is safe for concurrent use.
type Transport struct {
	*http.Transport

	// Wait is how long each [Least] bytes of an answer, or what is left, are waited for.
	Wait time.Duration
	// Followed says that an answer is followed as it comes about: one that is no refusal
	// may be silent for any time.
	Followed bool
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	res, err := t.Transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}

	b := &body{
		ReadCloser: res.Body,
		end:        cancel,
		endless:    t.Followed && res.StatusCode/100 == 2,
		wait:       t.Wait,
		left:       t.Wait,
	}
	res.Body = b

	return res, nil
}

// body is an answer that is read.
type body struct {
	io.ReadCloser

	end     context.CancelFunc // ends what is read
	endless bool
	wait    time.Duration
	left    time.Duration // of wait, for what comes next
	got     int64         // bytes so far
	counted int64         // of them, those that wait began anew for
	late    bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.endless {
		return b.ReadCloser.Read(p)
	}

	began := time.Now()
	timer := time.AfterFunc(b.left, b.end)
	n, err := b.ReadCloser.Read(p)
	b.late = !timer.Stop() || b.late
	b.left -= time.Since(began)

	b.got += int64(n)
	if b.got-b.counted >= Least {
		b.counted = b.got
		b.left = b.wait
	}

	if b.late && err != nil && err != io.EOF {
		err = &Error{Got: b.got, Wait: b.wait}
	}
	return n, err
}

func (b *body) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// Error is of an answer that came too slowly. It is a [net.Error] that is a timeout.
type Error struct {
	Got  int64 // bytes that came in all
	Wait time.Duration
}

func (e *Error) Error() string {
	return problem.Count(int(e.Got), "byte") + " came, and not the rest in time"
}

// Want is what was expected, for people.
func (e *Error) Want() string {
	return fmt.Sprintf("the rest of the answer, or at least %d KiB more of it, within %s", Least>>10, problem.Duration(e.Wait))
}

// Timeout implements [net.Error].
func (e *Error) Timeout() bool { return true }

// Temporary implements [net.Error].
func (e *Error) Temporary() bool { return true }
