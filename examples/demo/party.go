package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

// nobody is the user of the parties that need no root.
const nobody = 65534

// party is somebody with a folder, who types commands into it.
type party struct {
	name string
	dir  string
	uid  int
	env  []string
	out  io.Writer
}

// party makes somebody's folder, and what their commands see of this machine.
func (d *demo) party(name string, uid int) (*party, error) {
	p := &party{
		name: name,
		dir:  filepath.Join(d.dir, name),
		uid:  uid,
		out:  d.out,
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}

	if err := os.Chown(p.dir, uid, uid); err != nil {
		return nil, err
	}

	p.env = []string{
		"PATH=" + filepath.Join(d.dir, "bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + p.dir,
		"CUPEL_CONFIG=" + filepath.Join(p.dir, "cupel"),
		"CUPEL_STATE=" + d.state(),
		"LANG=C.UTF-8",
	}

	return p, nil
}

// state is the operator's state folder.
func (d *demo) state() string { return filepath.Join(d.dir, "state") }

// title tells what comes and who does it.
func (d *demo) title(format string, args ...any) {
	_, _ = fmt.Fprintf(d.out, "\n%s\n", paint(d.out, bold, fmt.Sprintf(format, args...)))
}

// Colours of a terminal (ECMA-48 section 8.3.117).
const (
	bold = "\x1b[1m"
	cyan = "\x1b[36m"
)

// paint colours text for a terminal whose user doesn't mind.
func paint(out io.Writer, colour, text string) string {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("NO_COLOR") != "" {
		return text
	}

	return colour + text + "\x1b[0m"
}

// say tells what happened.
func (d *demo) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.out, format+"\n", args...)
}

// run shows a command and runs it, its output going to the screen.
func (p *party) run(ctx context.Context, args ...string) error {
	p.show(args, "")
	return p.exec(ctx, p.out, args...)
}

// runTo shows and runs a command whose output goes into a file of the party.
func (p *party) runTo(ctx context.Context, file string, args ...string) error {
	p.show(args, " > "+file)
	var out bytes.Buffer

	if err := p.exec(ctx, &out, args...); err != nil {
		return err
	}
	return p.write(file, out.Bytes())
}

// ask runs a command that is not part of the story and returns its output.
func (p *party) ask(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := p.command(ctx, args...)
	cmd.Stdout = &out
	cmd.Stderr = &errs

	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}

	return strings.TrimSpace(out.String()), nil
}

// show prints a command as the party would type it.
func (p *party) show(args []string, after string) {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = quote(a)
	}

	_, _ = fmt.Fprintf(p.out, "%s %s%s\n", paint(p.out, cyan, p.name+"$"), strings.Join(quoted, " "), after)
}

// exec runs a command.
func (p *party) exec(ctx context.Context, out io.Writer, args ...string) error {
	cmd := p.command(ctx, args...)
	cmd.Stdout = out
	cmd.Stderr = os.Stderr

	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %s: %w", p.name, args[0], err)
	}

	return nil
}

// command prepares a command: the party's user, folder and environment, and
// nothing of ours. An interrupt ends it as Ctrl-C would.
func (p *party) command(ctx context.Context, args ...string) *exec.Cmd {
	name := args[0]
	if path := filepath.Join(filepath.Dir(p.dir), "bin", name); exists(path) {
		name = path
	}
	cmd := exec.CommandContext(ctx, name, args[1:]...)

	cmd.Dir = p.dir
	cmd.Env = p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.uid)}
	}

	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second

	return cmd
}

// write puts a file of their own into a party's folder.
func (p *party) write(name string, data []byte) error {
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}

	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}

	return os.Chown(path, p.uid, p.uid)
}

// quote writes an argument as a person would type it.
func quote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./:@%,+", r)
	}) < 0

	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// exists tells whether something is at a path.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
