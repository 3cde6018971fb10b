package registry

import (
	"errors"
	"io"
	"net/http"
)

// brokenError says that an answer began and did not come to its end: nothing is known of
// what is stored, while an answer that is whole and wrong is damage.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "the answer broke off: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// wholeAnswers is a transport that tells an answer that breaks off by its error.
type wholeAnswers struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t wholeAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.next.RoundTrip(r)
	if err == nil {
		answer.Body = wholeBody{answer.Body}
	}

	return answer, err
}

// wholeBody is the body of such an answer.
type wholeBody struct{ io.ReadCloser }

// Read implements io.Reader.
func (b wholeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &brokenError{err}
	}
	return n, err
}
