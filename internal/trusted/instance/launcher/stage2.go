package launcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// Descriptors that stages 2 and 3 inherit beside the standard three.
const (
	planFD   = 3 // the plan, read to its end
	resultFD = 4 // ready mark and, if the app could not be started, why
	viewFD   = 5 // socket, over which the app's root is handed to stage 1
)

// readyMark precedes a failed execve's reason; alone, and the pipe closed by
// close-on-exec, it says that the app runs.
const readyMark = '+'

// result is what is reported when a stage could not become the app.
type result struct {
	Code    int            `json:"code"`
	Problem *problem.Error `json:"problem"`
}

// Stage2 builds the app's root and starts stage 3 in it, which becomes the app.
// It returns the exit code.
func Stage2() int {
	// What it changes of itself shall be stage 3's: that one inherits it from
	// the thread that makes it.
	runtime.LockOSThread()

	out := os.NewFile(resultFD, "result")
	if err := buildRoot(out); err != nil {
		return reportFailure(out, err)
	}
	return 0
}

// reportFailure tells stage 1 why there is no app, and returns the exit code.
func reportFailure(out io.Writer, err error) int {
	r := result{Code: exitRefused, Problem: problem.From(err)}
	switch r.Problem.Rule {
	case RuleNotFound:
		r.Code = exitNotFound
	case RuleNotExecutable:
		r.Code = exitNotExecutable
	}

	_ = json.NewEncoder(out).Encode(r)
	return r.Code
}

func buildRoot(report *os.File) error {
	if os.Getppid() != 1 {
		return problem.New(problem.Invalid, ruleNotAnInstance, "stage 2 is started by stage 1 only")
	}

	// Everything beyond the standard three ends here, before the app begins.
	if err := unix.CloseRange(planFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}

	if err := sealProcess(); err != nil {
		return err
	}
	var p plan
	if err := readPlan(planFD, &p); err != nil || len(p.Argv) == 0 {
		return problem.New(problem.Internal, rulePlan, "stage 2 is started by stage 1 only")
	}

	if err := hostAttributes(); err != nil {
		return err
	}
	if err := ownOutput(p.User); err != nil {
		return err
	}

	if err := enterRoot(p.Volumes); err != nil {
		return err
	}

	unix.Umask(appUmask)
	if err := writeFiles(p.Files, p.User); err != nil {
		return err
	}

	if err := os.MkdirAll(p.Cwd, 0o755); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}

	if err := handView(&p); err != nil {
		return err
	}
	return spawnApp(&p, report)
}

// readPlan reads what the stage before hands on, to its end.
func readPlan(fd uintptr, p any) error {
	in := os.NewFile(fd, "plan")
	b, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}

	_ = in.Close()
	defer clear(b)
	return json.Unmarshal(b, p)
}

// findCommand looks a command up as a shell does, by the app's own PATH, with
// the app's own rights.
func findCommand(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, execError(name, unix.Faccessat(unix.AT_FDCWD, name, unix.X_OK, 0))
	}

	var paths string
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			paths = v
		}
	}

	found := error(unix.ENOENT)
	for _, dir := range filepath.SplitList(paths) {
		file := filepath.Join("/", dir, name)
		if info, err := os.Stat(file); err != nil || info.IsDir() {
			continue
		}

		if err := unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, 0); err == nil {
			return file, nil
		}
		found = unix.EACCES
	}
	return "", execError(name, found)
}

// programForm is what a command's first word looks like. What doesn't may be
// anything: whoever writes TOKEN=… before the command, as in a shell, makes a
// secret its first word, and the launcher's words are the host's to read.
var programForm = regexp.MustCompile(`^[A-Za-z0-9_./+-]{1,80}$`)

// program names a command's first word for people.
func program(name string) string {
	if programForm.MatchString(name) {
		return strconv.Quote(name)
	}
	return "like its first word, which is no name of a program and so not shown (variables belong into the service's environment)"
}

// startError is execError of a file that is there: where the kernel finds none, it is
// the interpreter that the file names, or the loader.
func startError(name, file string, err error) error {
	if info, serr := os.Stat(file); errors.Is(err, unix.ENOEXEC) && serr == nil && info.Size() == 0 {
		return emptyError(name, file)
	}
	if !errors.Is(err, unix.ENOENT) {
		return execError(name, err)
	}

	what, mend := "the loader or interpreter that it names", "deploy it with a runtime that has it, or name another interpreter first in the session's command"
	if line := firstLine(file); strings.HasPrefix(line, "#!") {
		word, _, _ := strings.Cut(strings.TrimLeft(line[len("#!"):], " \t"), " ")
		if word, crlf := strings.CutSuffix(word, "\r"); programForm.MatchString(word) {
			what = "its interpreter " + strconv.Quote(word)
			if crlf {
				what += " with a carriage return behind it"
				mend = "save the file with the line ends of Unix, LF instead of CRLF"
			}
		}
	}

	return problem.New(problem.NotFound, RuleNotFound, "%s is there, but the instance does not have %s", program(name), what).
		Want("a program in the image or in a volume, with the interpreter that it names").Fix("%s", mend)
}

// emptyError says why a program without a byte can't be started: an image has none, so a
// disk lost what was in it.
func emptyError(name, file string) error {
	if !sameMount(file, "/") {
		return problem.New(problem.Denied, RuleNotExecutable, "%s can't be executed: the file is empty (0 bytes), and in a volume of the session's", program(name)).
			Want("a program, or a script that names its interpreter").
			Fix("put back what belongs there: commit the file with its content, where it comes from a repository")
	}
	return problem.New(problem.Denied, RuleNotExecutable, "%s can't be executed: the file is empty (0 bytes), and in the image, not in a volume", program(name)).
		Want("the file as it was when the image was built").
		Fix("the machine's disk lost its content, as after a power cut. The operator looks at the disk (dmesg) and has images unpacked anew: " +
			"cupel down, remove STATE/containerd/root, cupel up. A file that was built empty needs its runtime built anew")
}

// sameMount reports whether two files are of one mount.
func sameMount(a, b string) bool {
	var of [2]unix.Statx_t
	for i, file := range []string{a, b} {
		if unix.Statx(unix.AT_FDCWD, file, 0, unix.STATX_MNT_ID, &of[i]) != nil {
			return false
		}
	}
	return of[0].Mnt_id == of[1].Mnt_id
}

// firstLine is what the kernel reads of a script to find its interpreter, or "".
func firstLine(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()

	b := make([]byte, 256)
	n, _ := io.ReadFull(f, b)
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	return line
}

// execError says in the words of shells why a command can't be started.
func execError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return problem.New(problem.NotFound, RuleNotFound, "the instance has no command %s", program(name)).
			Want("a program in the image or in a volume, with the interpreter that it names").
			Fix("look at the service's command: in the session, and at the runtime that it was deployed with")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.EPERM), errors.Is(err, unix.EISDIR):
		return problem.New(problem.Denied, RuleNotExecutable, "%s can't be executed: %w", program(name), err).
			Fix("make it executable for the image's user (git update-index --chmod=+x FILE), or name its interpreter first in the session's command, as in python3 FILE")
	case errors.Is(err, unix.E2BIG):
		return problem.New(problem.Invalid, RuleNotExecutable, "%s can't be started with all of its arguments and variables: %w", program(name), err).
			Want("at most 128 KiB for one argument, or NAME=VALUE of one variable, and 2 MiB for all of them").
			Fix("give your app large values as files: the session's injection files, or files in its repository or on its volume")
	}
	return problem.New(problem.Internal, ruleExec, "execute %s: %w", program(name), err)
}
