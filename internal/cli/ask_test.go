package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
)

// TestAnInterruptEndsAQuestion: whoever is asked and presses Ctrl-C waits no longer.
func TestAnInterruptEndsAQuestion(t *testing.T) {
	silent, _ := io.Pipe()
	defer silent.Close()
	var says bytes.Buffer
	g := &globals{in: silent, err: &says}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.ask(ctx, "Type yes: "); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if says.String() != "Type yes: \n" {
		t.Errorf("%q", says.String())
	}

	in, typed := io.Pipe()
	defer in.Close()
	g = &globals{in: in, err: io.Discard}
	go func() { _, _ = typed.Write([]byte(" yes \n")) }()
	if line, err := g.ask(t.Context(), "Type yes: "); err != nil || line != "yes" {
		t.Errorf("%q, %v", line, err)
	}
}
