package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
)

// outputLimit is how long a plugin that was ended may keep its output open.
const outputLimit = time.Second

// endingExec runs plugins so that the end of the context ends them: with what they
// started themselves, which the library's own way leaves running and waits for.
type endingExec struct{ invoke.DefaultExec }

var _ invoke.Exec = (*endingExec)(nil)

// ExecPlugin implements invoke.Exec. A plugin says in JSON on its standard output what
// it did, or why it failed (CNI specification 1.0.0, "Error").
func (*endingExec) ExecPlugin(ctx context.Context, plugin string, stdin []byte, env []string) ([]byte, error) {
	var out, words bytes.Buffer
	cmd := exec.CommandContext(ctx, plugin)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout = &out
	cmd.Stderr = &words

	// A group of its own, which is ended as a whole.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputLimit

	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err == nil:
		return out.Bytes(), nil
	}

	var said types.Error
	if json.Unmarshal(out.Bytes(), &said) == nil && said.Msg != "" {
		return nil, &said
	}
	return nil, errors.Join(err, errors.New(string(bytes.TrimSpace(words.Bytes()))))
}
