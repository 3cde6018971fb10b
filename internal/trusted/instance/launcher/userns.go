package launcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// The app runs in a user namespace of its own, in which every id means the same
// as outside: owners of files, volumes and images are what they were. What it
// changes is who may look. To read another process's memory, environment or
// root takes an equal user in the same namespace, or a capability over it. The
// namespace's owner is root, so the user of the host that happens to have the
// app's number has neither.
//
// A process can enter a new user namespace only when it is made, so the app is
// a third stage of this binary: stage 2, which built the root with its
// capabilities over the host's namespace, makes it as a sibling and ends.

// allIDs is the whole range; the id after the last one means "none".
const allIDs = 1<<32 - 1

// appPlanFD is stage 3's descriptor of its plan. The others are as stage 2's.
const appPlanFD = planFD

// ownBinary leads to this program, in whichever root.
const ownBinary = "/proc/self/exe"

// appPlan is what is left to do in the namespace.
type appPlan struct {
	User appUser  `json:"user"`
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	Cwd  string   `json:"cwd"`
}

// pidMark precedes the number of the process that becomes the app, in what
// stage 2 reports to stage 1.
const pidMark = "pid "

// spawnApp starts stage 3 in a user namespace, tells stage 1 which process that
// is, and hands it the plan. The new process is stage 1's child.
func spawnApp(p *plan, report *os.File) error {
	b, err := json.Marshal(appPlan{
		User: p.User,
		Argv: p.Argv,
		Env:  p.Env,
		Cwd:  p.Cwd,
	})
	if err != nil {
		return fmt.Errorf("marshal the app's plan: %w", err)
	}
	defer clear(b)

	in, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer out.Close()

	same := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: allIDs}}
	pid, err := syscall.ForkExec(ownBinary, []string{"/cupel-init", "stage3"}, &syscall.ProcAttr{
		Env:   []string{},
		Files: []uintptr{0, 1, 2, in.Fd(), report.Fd()},
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_PARENT,
			Setsid:                     true,
			UidMappings:                same,
			GidMappings:                same,
			GidMappingsEnableSetgroups: true,
		},
	})
	_ = in.Close()
	if err != nil {
		return noUserNamespace(err)
	}

	if _, err := fmt.Fprintf(report, "%s%d\n", pidMark, pid); err != nil {
		return fmt.Errorf("report to the launcher: %w", err)
	}
	if _, err := out.Write(b); err != nil {
		return fmt.Errorf("hand on the app's plan: %w", err)
	}
	return nil
}

func noUserNamespace(err error) error {
	p := problem.New(problem.Unavailable, ruleUserNamespace, "the host lets no user namespace be made for the app: %w", err).
		Want("a user namespace, so that no user of the host reads the app's memory")

	if errors.Is(err, unix.ENOSPC) {
		return p.Fix("raise the host's user.max_user_namespaces")
	}
	return p.Fix("start the instance by the newest launch profile, on a kernel with user namespaces")
}

// Stage3 becomes the app. It returns only if it could not, the exit code.
func Stage3() int {
	// Credentials, filters and signal masks belong to threads: this one changes
	// its own and executes, upon which the kernel ends all others.
	runtime.LockOSThread()
	return reportFailure(os.NewFile(resultFD, "result"), become())
}

func become() error {
	if os.Getppid() != 1 {
		return problem.New(problem.Invalid, ruleNotAnInstance, "stage 3 is started by stage 2 only")
	}

	if err := unix.CloseRange(appPlanFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	if err := sealProcess(); err != nil {
		return err
	}

	p, err := readAppPlan()
	if err != nil {
		return err
	}

	if err := dropPrivileges(p.User); err != nil {
		return err
	}
	if err := checkDropped(p.User); err != nil {
		return err
	}

	if err := os.Chdir(p.Cwd); err != nil {
		return problem.New(problem.Invalid, ruleWorkingDirectory, "the app's user can't enter %s: %w", p.Cwd, err)
	}

	file, err := findCommand(p.Argv[0], p.Env)
	if err != nil {
		return err
	}

	if err := ownAttributes(); err != nil {
		return err
	}
	if err := installAppFilter(); err != nil {
		return err
	}

	if _, err := unix.Write(resultFD, []byte{readyMark}); err != nil {
		return fmt.Errorf("report to the launcher: %w", err)
	}
	return startError(p.Argv[0], file, syscall.Exec(file, p.Argv, p.Env))
}

func readAppPlan() (*appPlan, error) {
	var p appPlan
	if err := readPlan(appPlanFD, &p); err != nil || len(p.Argv) == 0 {
		return nil, problem.New(problem.Internal, rulePlan, "stage 3 is started by stage 2 only")
	}
	return &p, nil
}

// appPID reads the first line of stage 2's report. Anything but the app's
// process is the reason why there is none, which the reader then begins with.
func appPID(r io.Reader) (pid int, rest []byte, err error) {
	var line []byte
	var b [1]byte
	for len(line) < 4<<10 {
		n, err := r.Read(b[:])
		if n == 0 || err != nil {
			break
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}

	text, ok := strings.CutPrefix(string(line), pidMark)
	if !ok {
		return 0, line, nil
	}

	if pid, err = strconv.Atoi(text); err != nil || pid <= 1 {
		return 0, nil, problem.New(problem.Internal, ruleStage2, "stage 2 reported the process %q", clip(text))
	}
	return pid, nil, nil
}
