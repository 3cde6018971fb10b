package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
)

// TestInterruptedCode: an interrupt ends the waiting for a code on standard input.
func TestInterruptedCode(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = write.Close(), read.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g := &globals{in: read, err: io.Discard}
	if _, err := g.readCode(ctx, "-"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
