package ask

import (
	"bufio"
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
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Line(ctx, bufio.NewReader(silent), &says, "Type yes: "); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if says.String() != "Type yes: \n" {
		t.Errorf("%q", says.String())
	}

	in, typed := io.Pipe()
	defer in.Close()
	go func() { _, _ = typed.Write([]byte(" yes \n")) }()
	if line, err := Line(t.Context(), bufio.NewReader(in), io.Discard, "Type yes: "); err != nil || line != " yes \n" {
		t.Errorf("%q, %v", line, err)
	}
}
