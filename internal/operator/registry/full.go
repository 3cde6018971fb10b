package registry

import (
	"errors"
	"net/http"

	"cupel.dev/cupel/internal/trusted/diskerror"
)

// roomless answers 507 where the library says 500 for want of room: clients try a 500
// again, and then meet what is left of the first try.
type roomless struct {
	http.ResponseWriter
	held bool // a 500 waits for its text
}

// WriteHeader implements http.ResponseWriter.
func (w *roomless) WriteHeader(status int) {
	if w.held = status == http.StatusInternalServerError; !w.held {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write implements http.ResponseWriter. The library writes an error's text at once.
func (w *roomless) Write(b []byte) (int, error) {
	w.release(b)
	return w.ResponseWriter.Write(b)
}

// release sends the status that was held back, by what the text says.
func (w *roomless) release(text []byte) {
	if !w.held {
		return
	}

	w.held = false
	status := http.StatusInternalServerError
	if diskerror.Full(errors.New(string(text))) {
		status = http.StatusInsufficientStorage
	}
	w.ResponseWriter.WriteHeader(status)
}
