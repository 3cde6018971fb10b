package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// TestChainID holds the definition: ChainID(a, b) = SHA-256(ChainID(a) + " " + DiffID(b)).
func TestChainID(t *testing.T) {
	zero, one := "sha256:"+strings.Repeat("00", 32), "sha256:"+"01"+strings.Repeat("00", 31)
	two := "sha256:" + ident.Sum([]byte(zero+" "+one)).String()
	three := "sha256:" + ident.Sum([]byte(two+" "+zero)).String()
	ids := []ident.Digest{{}, {1}, {}}
	for n, want := range []string{"", zero, two, three} {
		if got := chainID(ids[:n]); got != want {
			t.Errorf("%d layers: %s, want %s", n, got, want)
		}
	}
}

func TestRootedOn(t *testing.T) {
	const line = "100 99 0:50 / / ro,relatime - overlay overlay rw,lowerdir=/a,upperdir=/state/long\\040name/fs,workdir=/w\n"
	const other = "101 100 0:51 / /proc rw - proc proc rw\n"
	for _, c := range []struct {
		name, mounts string
		want         bool
	}{
		{"its snapshot", line + other, true},
		{"covered by another", line + other + "102 100 0:52 / / rw - tmpfs tmpfs rw\n", false},
		{"another upper layer", strings.Replace(line, "/fs,", "/fs2,", 1), false},
		{"another lower layer", strings.Replace(line, "lowerdir=/a", "lowerdir=/evil:/a", 1), false},
		{"a lower layer from elsewhere", strings.Replace(line, "lowerdir=/a", "lowerdir=a", 1), false},
		{"a layer added", strings.Replace(line, "lowerdir=/a", "lowerdir=/a,lowerdir+=/evil", 1), false},
		{"another lower layer named before", strings.Replace(line, "lowerdir=/a", "lowerdir=/evil,lowerdir=/a", 1), false},
		{"no overlay", "100 99 0:50 / / ro - ext4 /dev/x rw,upperdir=/state/long\\040name/fs\n", false},
		{"nothing", other, false},
		{"garbage", "x\n", false},
	} {
		if got := rootedOn(c.mounts, "/a", "/state/long name/fs"); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func FuzzRootedOn(f *testing.F) {
	f.Add("100 99 0:50 / / ro - overlay overlay rw,lowerdir=/l,upperdir=/u\n", "/l", "/u")
	f.Fuzz(func(_ *testing.T, mounts, lower, upper string) { rootedOn(mounts, lower, upper) })
}

func TestSameLayers(t *testing.T) {
	var long, short []string
	for i := range 40 {
		short = append(short, fmt.Sprintf("%d/fs", i))
		long = append(long, "/state"+strings.Repeat("/folder", 12)+"/"+short[i])
	}
	many := strings.Join(long, ":")
	if !sameLayers(strings.Join(short, ":"), many) || !sameLayers(many, many) {
		t.Error("many layers, named from their common folder, are taken for others")
	}
	short[7] = "evil/fs"
	if sameLayers(strings.Join(short, ":"), many) || sameLayers("1/fs", "/state/1/fs") {
		t.Error("other layers are taken for the snapshot's")
	}
}

func TestOverlayOption(t *testing.T) {
	m := []mount.Mount{{Type: "overlay", Options: []string{"index=off", "upperdir=/u", "lowerdir=/l"}}}
	if got := overlayOption(m, "upperdir="); got != "/u" {
		t.Errorf("%q", got)
	}
	m[0].Type = "bind"
	if got := overlayOption(m, "upperdir="); got != "" {
		t.Errorf("%q", got)
	}
}

func TestEmptyPlaces(t *testing.T) {
	points := []string{"/proc", "/run/cupel", "/etc/hosts", "/cupel-init"}
	for name, c := range map[string]struct {
		change func(dir, lower string) error
		want   string
	}{
		"as made": {func(string, string) error { return nil }, ""},
		"a link":  {func(dir, _ string) error { return os.Symlink("/x", filepath.Join(dir, "run/link")) }, "/run/link"},
		"a file":  {func(dir, _ string) error { return os.WriteFile(filepath.Join(dir, "cupel-init"), []byte("x"), 0o755) }, "/cupel-init"},
		"an empty file over the image's": {
			func(dir, _ string) error { return os.WriteFile(filepath.Join(dir, "etc/passwd"), nil, 0o600) }, "/etc/passwd",
		},
		"a folder of its own": {func(dir, _ string) error { return os.Mkdir(filepath.Join(dir, "etc/git"), 0o755) }, "/etc/git"},
		"a folder that the kernel made": {
			func(dir, _ string) error { return mark(filepath.Join(dir, "run"), "trusted.overlay.opaque") }, "",
		},
		"a folder that hides the image's": {
			func(dir, _ string) error { return mark(filepath.Join(dir, "etc"), "trusted.overlay.opaque") }, "/etc in its root hides",
		},
		"a folder in another's place": {
			func(dir, _ string) error { return mark(filepath.Join(dir, "run"), "trusted.overlay.redirect") }, "/run in its root hides",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, lower := t.TempDir(), t.TempDir()
			for _, d := range []string{dir + "/run/cupel", dir + "/etc", dir + "/proc", lower + "/etc"} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range []string{"cupel-init", "etc/hosts"} {
				if err := os.WriteFile(filepath.Join(dir, f), nil, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.change(dir, lower); errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("trusted attributes can't be set here:", err)
			} else if err != nil {
				t.Fatal(err)
			}
			err := emptyPlaces(dir, []string{lower}, points)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: want %q", err, c.want)
			}
		})
	}
}

func mark(dir, attribute string) error { return unix.Lsetxattr(dir, attribute, []byte("y"), 0) }

func TestConfigIsGolden(t *testing.T) {
	d := &Daemon{cfg: DaemonConfig{Dir: "/var/lib/cupel/containerd", ID: "0123abcd"}}
	want, err := os.ReadFile("testdata/config.toml")
	if err != nil {
		t.Fatal(err)
	}
	if got := d.config(); !bytes.Equal(got, want) {
		t.Errorf("configuration:\n%s", got)
	}
	long := &Daemon{cfg: DaemonConfig{Dir: "/" + strings.Repeat("x", 100), ID: "0123abcd"}}
	if a, b := d.Address(), long.Address(); a != "/var/lib/cupel/containerd/containerd.sock" || b != "/run/cupel-0123abcd/containerd.sock" {
		t.Errorf("addresses %s, %s", a, b)
	}
}

// TestPidFile: only the very process that was started is taken for the daemon.
func TestPidFile(t *testing.T) {
	d := &Daemon{cfg: DaemonConfig{Dir: t.TempDir()}}
	// A process with our configuration among its arguments.
	cmd := exec.Command("/bin/sh", "-c", "read x", "sh", d.path("config.toml"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer func() {
		in.Close()
		_ = cmd.Wait()
		if got := d.runningPID(); got != 0 {
			t.Errorf("it ended, and is taken for running: %d", got)
		}
	}()
	start, err := startTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	self, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]int{
		fmt.Sprintf(`{"pid":%d,"start":%d}`, pid, start):        pid,
		fmt.Sprintf(`{"pid":%d,"start":%d}`, pid, start+1):      0, // the number was used again
		fmt.Sprintf(`{"pid":%d,"start":%d}`, os.Getpid(), self): 0, // not started with our configuration
		`{"pid":0}`:  0,
		`{"pid":-1}`: 0,
		`nonsense`:   0,
	} {
		if err := os.WriteFile(d.path("containerd.pid"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		// The shell may not have been executed yet.
		var got int
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if got = d.runningPID(); got == want {
				break
			}
		}
		if got != want {
			t.Errorf("%s: %d, want %d", content, got, want)
		}
	}
}

func TestImageErrors(t *testing.T) {
	for rule, err := range map[string]error{
		"image_missing": fmt.Errorf("x: %w", errdefs.ErrNotFound), "image_reference": errdefs.ErrInvalidArgument,
		"image_fetch": errors.New("x"), "internal": context.Canceled,
	} {
		if got := problem.From(imageError("ref", err)); string(got.Rule) != rule {
			t.Errorf("%v: %s, want %s", err, got.Rule, rule)
		}
	}
}

func TestMissingContainerd(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), DaemonConfig{Dir: t.TempDir(), ID: "00000000", Logger: slog.New(slog.DiscardHandler)})
	if p := problem.From(err); err == nil || p.Rule != "containerd_missing" || p.Mend == "" {
		t.Errorf("%v", err)
	}
}

// idle runs a shell that does nothing until the test ends.
func idle(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := &exec.Cmd{Path: program, Args: args}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return cmd
}

// TestFoundWithoutItsFile: a daemon whose pid file was lost is taken over, and no second
// one is started, which would wait for the first one's database.
func TestFoundWithoutItsFile(t *testing.T) {
	d := &Daemon{cfg: DaemonConfig{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}}
	// It calls itself so, and is none: a shell that waits for a script.
	idle(t, "/bin/sh", "/usr/bin/containerd", "-s", d.path("config.toml"))
	if pid, err := d.find(); err != nil || pid != 0 {
		t.Errorf("process %d, which only calls itself containerd, is taken for it, %v", pid, err)
	}

	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "containerd")
	if err := os.WriteFile(program, shell, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := idle(t, program, program, "-s", d.path("config.toml"))
	for _, content := range []string{"", "nonsense", `{"pid":1}`} {
		if err := os.WriteFile(d.path("containerd.pid"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if pid, err := d.find(); err != nil || pid != cmd.Process.Pid || d.runningPID() != pid {
			t.Errorf("%q: process %d, %v; want %d", content, pid, err, cmd.Process.Pid)
		}
	}
}
