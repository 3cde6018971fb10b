package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/cli"
	"cupel.dev/cupel/internal/testing/castest"
)

// TestMain lets scripts run this binary as cupel.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cupel": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
			code := cli.Main(interruptedAtPipe(interruptedAfter(ctx, os.Getenv(interruptAfter)), os.Getenv(interruptAtPipe)), os.Args[1:], cli.Process{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Getenv})
			stop()
			os.Exit(code)
		},
	})
}

// TestScripts runs testdata/script. Each script has an owner's folder of its own
// and may start a real CAS, on a simulated platform, within this process.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("CUPEL_CONFIG", filepath.Join(env.WorkDir, "owner"))
			env.Setenv("CUPEL_STATE", filepath.Join(env.WorkDir, "state"))
			for _, name := range []string{"puller", "python", "evil"} { // measurements to speak of
				env.Setenv(strings.ToUpper(name), ident.Sum([]byte(name)).String())
			}
			env.Setenv("CUPEL_WAIT", "500ms")
			cas := &scriptCAS{dir: filepath.Join(env.WorkDir, "cas-state")}
			env.Values[scriptCASKey{}] = cas
			env.Defer(cas.stop)
			app := &scriptApp{}
			env.Values[scriptAppKey{}] = app
			env.Defer(app.stop)
			m := &scriptManager{}
			env.Values[scriptManagerKey{}] = m
			env.Defer(m.stop)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"cas": casCommand, "app": appCommand, "manager": managerCommand, "provider": providerCommand, "grants": grantsCommand, "code": codeCommand, "interrupted": interruptedCommand},
	})
}

// codeCommand is `code N cupel …`: it runs cupel as exec does, and wants that exit
// code.
func codeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || args[1] != "cupel" {
		ts.Fatalf("usage: code N cupel …")
	}
	err := ts.Exec("cupel", args[2:]...)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("cupel %s: %v, want exit code %s", strings.Join(args[2:], " "), err, args[0])
	}
}

// grantsCommand is `grants FILE APP`: it sets $GRANT to the id of the newest grant
// of APP, and $GRANT_SHORT to its beginning, in what `session grants -o json` printed.
func grantsCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: grants FILE APP | grants claim FILE")
	}
	if args[0] == "claim" {
		cas, ok := ts.Value(scriptCASKey{}).(*scriptCAS)
		if !ok || cas.env == nil {
			ts.Fatalf("no CAS runs")
		}
		key, err := castest.NewKey()
		ts.Check(err)
		_, err = castest.Claim(context.Background(), cas.env.Instances, cas.env.Identity, key, strings.TrimSpace(ts.ReadFile(args[1])))
		ts.Check(err)
		return
	}
	var all []owners.Grant
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &all))
	for _, g := range all {
		if g.App == args[1] {
			ts.Setenv("GRANT", g.ID.String())
			ts.Setenv("GRANT_SHORT", g.ID.Short())
			return
		}
	}
	ts.Fatalf("no grant of %s", args[1])
}

type scriptCASKey struct{}

// scriptCAS is a script's CAS: its state and, while it runs, its process.
type scriptCAS struct {
	dir  string
	addr string // the same over restarts
	env  *castest.Env
}

func (c *scriptCAS) stop() {
	if c.env != nil {
		c.env.Stop()
		c.env = nil
	}
}

// casCommand is `cas start [DIR]`, `cas stop`. Starting sets $CAS (address),
// $CAS_ROOT (the simulated root's SHA-256) and $CAS_MEASUREMENT; another DIR is
// another state at the same address.
func casCommand(ts *testscript.TestScript, neg bool, args []string) {
	c, ok := ts.Value(scriptCASKey{}).(*scriptCAS)
	if !ok || neg || len(args) == 0 {
		ts.Fatalf("usage: cas start [DIR] | cas stop")
	}
	c.stop()
	if args[0] == "stop" {
		return
	}
	dir := c.dir
	if len(args) > 1 {
		dir = ts.MkAbs(args[1])
	}
	ts.Check(os.MkdirAll(dir, 0o700))
	if c.addr == "" {
		// A loopback address of its own: nobody else takes the port between a
		// stop and the next start.
		c.addr = fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	}
	env, err := castest.Open(dir, castest.Options{Owners: c.addr}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	for begin := time.Now(); errors.Is(err, syscall.EADDRINUSE) && time.Since(begin) < 10*time.Second; {
		time.Sleep(20 * time.Millisecond) // a process that another script starts holds the old listener until it executes
		env, err = castest.Open(dir, castest.Options{Owners: c.addr}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	}
	ts.Check(err)
	c.env, c.addr = env, env.Owners
	ts.Setenv("CAS", env.Owners)
	ts.Setenv("CAS_INSTANCES", env.Instances)
	ts.Setenv("CAS_ROOT", ident.Sum(env.Platform.Root().Raw).String())
	ts.Setenv("CAS_MEASUREMENT", castest.CASMeasurement.String())
	ts.Setenv("CAS_IDENTITY", fmt.Sprint(env.Identity))
}
