//go:build e2e

package hostile

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/internal/operator/las"
	"cupel.dev/cupel/internal/simtee"
)

// optIns: a simulated platform is believed where three parties chose to. With
// any one of them missing, nothing is released.
func (s *scene) optIns(t *testing.T) {
	s.run(t, "owner without --trust-simulation", func(*testing.T) {
		stranger := s.Owner("careful")
		stranger.MustRefuse("simulation_root", "cas", "attest", s.Info().CAS.Owners)
		stranger.MustRefuse("cas_not_attested", "template", "--runtime", "python", "--command", harness.AppCommand, "--simulation")
		args := append(stranger.SessionArgs(s.owner.Template(), "careful", "app"), s.accepted()...)
		stranger.MustRefuse("cas_not_attested", args...)
	})
	s.run(t, "session without tolerate simulation", func(*testing.T) {
		const name = "strict"
		file := s.owner.WriteFile("strict.yml", s.owner.MustRun("template", "--runtime", "python", "--command", harness.AppCommand))
		args := s.owner.SessionArgs(file, name, "app")
		for i, a := range args {
			if a == "--simulation" {
				args = append(args[:i:i], args[i+1:]...)
				break
			}
		}
		s.owner.MustRun(args...)
		s.owner.MustNotDeploy("simulation", name, "--port", number(harness.FreePort(t)))
		if got := s.owner.CASInstances(name); len(got) != 0 {
			s.T.Errorf("the CAS released to %v", got)
		}
		s.owner.MustRun("rm", "--app", name)
	})
	s.run(t, "CAS without the root", func(t *testing.T) {
		const name = "elsewhere"
		owners, instances := s.casWithoutRoot(t)
		owner := s.Owner("elsewhere")
		owner.MustRun("cas", "attest", owners, "--trust-simulation", s.SimulationRoot())
		owner.MustRun(append(owner.SessionArgs(owner.Template(), name, "app"), s.accepted()...)...)
		owner.MustNotDeploy("simulation_root", name, "--port", number(harness.FreePort(t)), "--cas-instances", instances)
		owner.MustRun("rm", "--app", name)
	})
}

// accepted are the flags of an owner who takes the measurements of the victim's
// instances as they are.
func (s *scene) accepted() (flags []string) {
	s.T.Helper()
	for _, i := range s.owner.CASInstances(victim) {
		flags = append(flags, "--accept-measurement", string(i.Service)+"="+i.Claims.Measurement.String())
	}
	return flags
}

// casWithoutRoot runs the product's CAS beside the operator's own, without
// --simulation-root, and plays the platform that attests it.
func (s *scene) casWithoutRoot(t *testing.T) (owners, instances string) {
	t.Helper()
	dir := filepath.Join(s.Dir, "second-cas")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(filepath.Join(s.Bin, "cupel-cas"))
	if err != nil {
		t.Fatal(err)
	}
	platform, err := simtee.Open(filepath.Join(s.State, "simtee"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "cas"), os.NewFile(uintptr(fds[1]), "las")
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	ready, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(s.Bin, "cupel-cas"), "--state", dir, "--owners", "127.0.0.1:0", "--instances", "0.0.0.0:0",
		"--evidence-fd", "3", "--ready-fd", "4")
	cmd.Dir, cmd.ExtraFiles, cmd.Stderr = dir, []*os.File{theirs, tell}, t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirs.Close(), tell.Close()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel() // the CAS ends with its evidence socket
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	server := las.New(las.Config{Platform: platform, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	go func() { _ = server.ServeConn(ctx, conn, sha256.Sum256(binary)) }()
	line, err := bufio.NewReader(ready).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the second CAS does not start: %v", err)
	}
	var at struct{ Owners, Instances string }
	if err := json.Unmarshal(line, &at); err != nil {
		t.Fatal(err)
	}
	return at.Owners, fmt.Sprintf("host.cupel.internal:%s", strconv.Itoa(portOf(t, at.Instances)))
}
