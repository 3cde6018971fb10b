package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// TestNobodyWaitsInSilence: without a terminal, too, it is said now and then that a
// step goes on, and at once what it waits for.
func TestNobodyWaitsInSilence(t *testing.T) {
	var out bytes.Buffer
	g := &globals{out: &out, output: "table", now: time.Now}
	p := g.progress()
	p.hint = func() string { return "the puller's last word: pull: cloning" }
	begin := time.Unix(1000, 0)
	d := manager.Deployment{Revision: 2, Steps: []manager.Step{{Name: manager.StepPull, StartedAt: begin}}}
	for second := range 35 {
		p.update(d, begin.Add(time.Duration(second)*time.Second))
	}
	if n := strings.Count(out.String(), "the puller's last word: pull: cloning"); n != 3 {
		t.Errorf("said %d times in 35 s:\n%s", n, &out)
	}

	out.Reset()
	drain := g.progress()
	for second := range 12 {
		drain.update(manager.Deployment{Steps: []manager.Step{{Name: manager.StepDrain, StartedAt: begin}}}, begin.Add(time.Duration(second)*time.Second))
	}
	if !strings.Contains(out.String(), "waits until users' connections to them have ended, at most the operator's drain time") {
		t.Errorf("of what holds a deployment up at its end:\n%s", &out)
	}

	out.Reset()
	d.Waiting = problem.New(problem.Unavailable, "unhealthy", "the app listens on [::1]:80").Fix("let it listen elsewhere")
	d.Steps = append(d.Steps, manager.Step{Name: manager.StepStop, StartedAt: begin})
	p.update(d, begin)
	p.update(d, begin)
	want := "  … nothing serves from now until revision 2 does: the app writes a volume, which has one writer\n" +
		"  … unhealthy: the app listens on [::1]:80; waiting for it\n    mend: let it listen elsewhere\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}

	out.Reset()
	g.output = "json"
	p.update(d, begin.Add(time.Minute))
	if !strings.Contains(out.String(), `{"step":"pull","seconds":60,"state":"running"}`) {
		t.Errorf("as JSON: %s", &out)
	}
}

// TestStepsWithoutTimes: what a manager says no time of has none.
func TestStepsWithoutTimes(t *testing.T) {
	for name, s := range map[string]manager.Step{
		"none":     {Name: manager.StepPull},
		"no start": {Name: manager.StepPull, EndedAt: time.Unix(1000, 0)},
		"backward": {Name: manager.StepPull, StartedAt: time.Unix(2000, 0), EndedAt: time.Unix(1000, 0)},
	} {
		var out bytes.Buffer
		g := &globals{out: &out, output: "table", now: time.Now}
		p := g.progress()
		p.update(manager.Deployment{Steps: []manager.Step{s}}, g.now())
		p.end(errors.New("it ended"))
		if got := strings.Fields(out.String()); len(got) == 0 || got[len(got)-1] != "-" {
			t.Errorf("%s: %q", name, &out)
		}
	}
}

// TestValuesInWords: no message speaks the language of the library that read a value.
func TestValuesInWords(t *testing.T) {
	for arg, want := range map[string]string{
		"deploy s --instances=many":                 "want a whole number",
		"deploy s --timeout=5":                      "want a duration such as 30s, 10m or 24h",
		"up --first-port=99999":                     "want a whole number from 0 to 65535",
		"events --after=-1":                         "want a whole number from 0 up",
		"ps --all=perhaps":                          "want true or false",
		"logs a --since=yesterday":                  "a duration such as 10m",
		"session submit s --use-by=1day":            "want a duration such as",
		"deploy s --instances=99999999999999999999": "want a whole number, and one that isn't so large",
		"deploy s --timeout=-1s":                    "--timeout -1s\n  expected: a duration",
		"deploy s --cas-instances=foo":              "HOST:PORT",
		"cas attest x --wait=-1s":                   "a duration such as 30s, 10m or 24h, not below 0",
		"cas attest x --mrsigner=00 --wait=-1ms":    "a duration such as 30s, 10m or 24h, not below 0",
		"logs a --tail=-5":                          "expected: 0 or more",
		"verify a --address=foo":                    "expected: HOST:PORT",
		"verify a --address=foo:x":                  "expected: HOST:PORT",
		"verify a --address=foo:99999":              "expected: HOST:PORT",
		"runtime build":                             "expected: NAME",
		"runtime measure a b":                       "expected: NAME",
		"session list-all":                          "unknown command",
		"template surplus":                          "expected: no arguments",
		"audit verify x":                            "expected: no arguments",
	} {
		var out, errw bytes.Buffer
		code := Main(t.Context(), strings.Fields(arg), Process{strings.NewReader(""), &out, &errw, func(string) string { return "" }})
		said := errw.String()
		if code != 2 || !strings.Contains(said, want) || strings.Contains(said, "strconv") || strings.Contains(said, "time: ") || strings.Contains(said, "parsing") {
			t.Errorf("cupel %s: code %d, %s", arg, code, said)
		}
		errw.Reset()
		Main(t.Context(), append(strings.Fields(arg), "-o", "json"), Process{strings.NewReader(""), &out, &errw, func(string) string { return "" }})
		if !strings.HasPrefix(errw.String(), `{"kind":"invalid","rule":`) {
			t.Errorf("cupel %s -o json: %s", arg, &errw)
		}
	}
}

// TestEveryCommandExplainsItsArguments: a surplus one is refused as everything else is.
func TestEveryCommandExplainsItsArguments(t *testing.T) {
	eachCommand(func(c *cobra.Command) {
		if c.HasSubCommands() {
			return
		}
		if c.Args == nil {
			t.Errorf("%s takes any arguments", c.CommandPath())
			return
		}
		err := c.Args(c, strings.Fields("a b c d e f"))
		if strings.Contains(c.Use, "...") {
			return
		}
		if p, ok := errors.AsType[*problem.Error](err); !ok || p.Kind != problem.Invalid || p.Mend == "" {
			t.Errorf("%s: %v", c.CommandPath(), err)
		}
	})
}

// TestInterruptedAsJSON: a program that asked for JSON gets it in the end as well.
func TestInterruptedAsJSON(t *testing.T) {
	for output, want := range map[string]string{
		"table": "cupel: interrupted\n",
		"json":  `{"kind":"unavailable","rule":"interrupted","actual":"ended by a signal, before it was done"}` + "\n",
	} {
		var errw bytes.Buffer
		g := &globals{err: &errw, output: output}
		if code := g.fail(fmt.Errorf("ask: %w", context.Canceled)); code != 130 || errw.String() != want {
			t.Errorf("%s: code %d, %s", output, code, &errw)
		}
	}
}

// Who waits no longer hears whether anything serves, and why not.
func TestGoesOn(t *testing.T) {
	stopped := []manager.Step{{Name: manager.StepStop}}
	for _, tt := range []struct {
		revision, healthy int
		steps             []manager.Step
		want, never       string
	}{
		{0, 0, nil, "cupel rm --app shop", "revision before"},
		{1, 2, nil, "the revision before serves", "nothing serves"},
		{1, 0, nil, "no instance of it accepts connections", "stopped"},
		{1, 0, stopped, "the revision before was stopped for it", "cupel ps"},
	} {
		got := goesOn(manager.App{Name: "shop", Revision: tt.revision, Healthy: tt.healthy, Deployment: manager.Deployment{Revision: 2, Steps: tt.steps}})
		if !strings.Contains(got, tt.want) || strings.Contains(got, tt.never) {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
