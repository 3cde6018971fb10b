//go:build e2e

package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cupel.dev/cupel/internal/testing/netlab"
)

// commandLimit ends a command that hangs.
const commandLimit = 5 * time.Minute

// Party is somebody who runs commands: an operator as root, or an owner.
type Party struct {
	world *World
	Name  string
	Dir   string // home, working directory and Cupel configuration
	root  bool
	env   []string
	bin   string        // folder of cupel; empty: the world's
	space *netlab.Space // nil: this machine
}

// Result is what a command said.
type Result struct {
	Args           []string
	Code           int // -1: ended by a signal, or not started
	Stdout, Stderr string
	Took           time.Duration
}

// String shows the whole result.
func (r Result) String() string {
	return fmt.Sprintf("cupel %s: exit %d in %s\nstdout: %s\nstderr: %s",
		strings.Join(r.Args, " "), r.Code, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
}

// with returns the party with more environment.
func (p *Party) with(env []string) *Party {
	q := *p
	q.env = append(slices.Clone(p.env), env...)
	return &q
}

// In returns the party on another machine, with the same folders.
func (p *Party) In(s *netlab.Space) *Party {
	q := *p
	q.space = s
	return &q
}

// Command prepares a command of the party: its user, folder and environment,
// and nothing of the test's own.
func (p *Party) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = p.Dir
	cmd.Env = append([]string{
		"PATH=" + p.programs() + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + p.Dir,
		"CUPEL_CONFIG=" + filepath.Join(p.Dir, "cupel"),
		"CUPEL_STATE=" + p.world.State,
		"LANG=C.UTF-8",
	}, p.env...)

	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if !p.root {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}

	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// programs is the folder of the party's cupel.
func (p *Party) programs() string {
	if p.bin != "" {
		return p.bin
	}
	return p.world.Bin
}

// start starts a command on the party's machine.
func (p *Party) start(cmd *exec.Cmd) (err error) {
	if p.space == nil {
		return cmd.Start()
	}
	p.space.Do(func() { err = cmd.Start() })
	return err
}

// Run runs cupel and returns what it said, whatever that was.
func (p *Party) Run(args ...string) Result {
	return p.RunContext(context.Background(), "", args...)
}

// RunContext is Run with standard input and a context that ends it (SIGKILL).
func (p *Party) RunContext(ctx context.Context, stdin string, args ...string) Result {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()

	cmd := p.Command(ctx, filepath.Join(p.programs(), "cupel"), args...)
	cmd.Stdin = strings.NewReader(stdin)

	var out, errs bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = &errs

	begin := time.Now()
	err := p.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}

	r := Result{
		Args:   args,
		Stdout: out.String(),
		Stderr: errs.String(),
		Took:   time.Since(begin),
	}

	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil:
		r.Code = -1
		r.Stderr += err.Error()
	}

	return r
}

// MustRun runs cupel, fails the test unless it exits 0, and returns its output.
func (p *Party) MustRun(args ...string) string {
	p.world.T.Helper()
	r := p.Run(args...)

	if r.Code != 0 {
		p.world.T.Fatalf("%s: %s", p.Name, r)
	}

	if r.Took > time.Second {
		p.world.T.Logf("%s: cupel %s took %s", p.Name, strings.Join(args[:min(3, len(args))], " "), r.Took.Round(10*time.Millisecond))
	}

	return r.Stdout
}

// MustJSON runs cupel with -o json and decodes its output into v.
func (p *Party) MustJSON(v any, args ...string) {
	p.world.T.Helper()
	out := p.MustRun(append(slices.Clone(args), "-o", "json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		p.world.T.Fatalf("cupel %s -o json: %v in %q", strings.Join(args, " "), err, out)
	}
}

// Problem is the error body of a command that failed with -o json.
type Problem struct {
	Kind     string `json:"kind"`
	Rule     string `json:"rule"`
	Expected string `json:"expected"`
	Actual   string `json:"actual"`
	Mend     string `json:"mend"`
}

// MustRefuse runs cupel, fails the test unless it ends with an error of that
// rule, and returns the result. The message is shown in the test's log.
func (p *Party) MustRefuse(rule string, args ...string) Result {
	p.world.T.Helper()
	r := p.Run(args...)
	if r.Code <= 0 || !strings.Contains(r.Stderr, rule) {
		p.world.T.Fatalf("want a refusal by rule %q: %s", rule, r)
	}

	p.world.T.Logf("refused as it should be: %s", strings.TrimSpace(r.Stderr))
	return r
}

// WriteFile writes a file into the party's folder, theirs to read, and returns
// its path.
func (p *Party) WriteFile(name, data string) string {
	p.world.T.Helper()
	path := filepath.Join(p.Dir, name)
	p.world.must(os.WriteFile(path, []byte(data), 0o600))

	if !p.root {
		p.world.must(os.Chown(path, nobody, nobody))
	}

	return path
}

// Watch runs cupel and calls see with its process and each line that it
// prints, first with an empty one when it has begun. see may take its time.
func (p *Party) Watch(args []string, see func(pid int, line string)) Result {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()

	cmd := p.Command(ctx, filepath.Join(p.world.Bin, "cupel"), args...)
	var out, errs bytes.Buffer

	cmd.Stderr = &errs
	begin := time.Now()

	r := Result{Args: args, Code: -1}
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}

	if err != nil {
		r.Stderr = err.Error()
		return r
	}

	see(cmd.Process.Pid, "")
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		_, _ = fmt.Fprintln(&out, lines.Text())
		see(cmd.Process.Pid, lines.Text())
	}

	_ = cmd.Wait()
	r.Code = cmd.ProcessState.ExitCode()
	r.Stdout = out.String()
	r.Stderr = errs.String()
	r.Took = time.Since(begin)
	return r
}
