package client

import (
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/minrate"
)

// Shorten has a client wait as long for the beginning of an answer, and for its pace.
func Shorten(t *testing.T, c *CAS, begin, wait time.Duration) {
	t.Helper()
	transport, ok := c.http.Transport.(*minrate.Transport)
	if !ok || transport.Wait != minrate.Wait || transport.ResponseHeaderTimeout != answerTimeout {
		t.Fatal("an answer has no limit")
	}
	transport.ResponseHeaderTimeout, transport.Wait = begin, wait
}
