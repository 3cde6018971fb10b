package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptrace"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/owners"
)

// interruptAfter names how many requests a test's cupel sends before it is interrupted,
// with the last of them under way.
const interruptAfter = "INTERRUPT_AFTER"

// interruptedAfter is a context that is interrupted so. Empty: it isn't.
func interruptedAfter(ctx context.Context, requests string) context.Context {
	n, err := strconv.Atoi(requests)
	if err != nil {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	var sent atomic.Int64
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		if sent.Add(1) == int64(n) {
			cancel()
		}
	}})
}

// interruptAtPipe names a pipe that nobody writes; a test's cupel is interrupted when it
// waits for it.
const interruptAtPipe = "INTERRUPT_AT_PIPE"

// interruptedAtPipe is a context that is interrupted so. Empty: it isn't.
func interruptedAtPipe(ctx context.Context, pipe string) context.Context {
	if pipe == "" {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			if _, err := unix.Open(pipe, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
				cancel() // somebody reads it; the end that is written stays open
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return ctx
}

// interruptedCommand is `interrupted SESSION MOST cupel …`: it runs cupel again and again,
// interrupted after one request, after two, and so on up to MOST. Each time no grant of
// the session may be left open, and there is one more that is claimed only where it was
// said that the deployment goes on.
func interruptedCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 || args[2] != "cupel" {
		ts.Fatalf("usage: interrupted SESSION MOST cupel …")
	}
	most, err := strconv.Atoi(args[1])
	ts.Check(err)
	held := func() (open, claimed []string) {
		ts.Setenv(interruptAfter, "")
		ts.Check(ts.Exec("cupel", "session", "grants", args[0], "-o", "json"))
		var all []owners.Grant
		ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &all))
		for _, g := range all {
			switch g.State {
			case owners.GrantOpen:
				open = append(open, g.ID.Short())
			case owners.GrantClaimed:
				claimed = append(claimed, g.ID.Short())
			case owners.GrantEnded:
			}
		}
		return open, claimed
	}

	for n := 1; n <= most; n++ {
		_, before := held()
		ts.Setenv(interruptAfter, strconv.Itoa(n))
		err := ts.Exec("cupel", args[3:]...)
		said := ts.ReadFile("stderr")
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 130 || !strings.Contains(said, "cupel: interrupted") {
			ts.Fatalf("interrupted after %d requests: %v\n%s", n, err, said)
		}
		open, claimed := held()
		goesOn := strings.Contains(said, "goes on without you")
		fresh := slices.ContainsFunc(claimed, func(id string) bool { return !slices.Contains(before, id) })
		if len(open) > 0 || fresh != goesOn {
			ts.Fatalf("interrupted after %d requests: open %q, claimed %q, before %q\n%s", n, open, claimed, before, said)
		}
	}
}
