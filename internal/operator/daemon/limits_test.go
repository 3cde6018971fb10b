package daemon

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/upflags"
)

func TestDrainFlag(t *testing.T) {
	for drain, ok := range map[time.Duration]bool{0: true, 30 * time.Second: true, -time.Second: false, 25 * time.Hour: false} {
		limits, err := managerLimits(Options{Installation: upflags.Installation{Drain: drain}})
		if ok && (err != nil || limits.Drain != drain) {
			t.Errorf("%s: %s, %v", drain, limits.Drain, err)
		}
		if !ok && problem.From(err).Rule != "drain" {
			t.Errorf("%s: %v", drain, err)
		}
	}
}

// TestFlagsAreChecked: what no start could take is refused, by up and by
// install-service alike, before either has touched anything.
func TestFlagsAreChecked(t *testing.T) {
	for _, tt := range []struct {
		flags []string
		rule  string
	}{
		{nil, ""},
		{[]string{"--grace", "1m", "--balancer", "connections=10,clients=100", "--subnet", "10.1.2.0/24", "--starts", "0"}, ""},
		{[]string{"--manager-listen", "localhost:0", "--cas-owners", "[::1]:https", "--keep-alive", "5s", "--cas-quota", "key-bytes=1M"}, ""},
		{[]string{"--grace", "-1s"}, "grace"},
		{[]string{"--grace", "1h"}, "grace"},
		{[]string{"--drain", "-1s"}, "drain"},
		{[]string{"--starts", "-1"}, "starts"},
		{[]string{"--overcommit", "perhaps"}, "overcommit"},
		{[]string{"--balancer", "connections=many"}, "balancer_limit"},
		{[]string{"--subnet", "8.8.8.0/24"}, "subnet"},
		{[]string{"--subnet", "10.1.2.0"}, "subnet"},
		{[]string{"--app-quota", "apps=-1"}, "app_quota"},
		{[]string{"--app-quota", "memory=x"}, "app_quota"},
		{[]string{"--low-ports", "0"}, "low_ports"},
		{[]string{"--min-free", "x"}, "min_free"},
		{[]string{"--first-port", "70000"}, "usage"},
		{[]string{"--first-port", "0"}, "first_port"},
		{[]string{"--first-port", "80"}, "first_port"},
		{[]string{"--manager-listen", "0.0.0.0:70000"}, "listen"},
		{[]string{"--cas-owners", "8081"}, "listen"},
		{[]string{"--manager-listen", "foo:bar"}, "listen"},
		{[]string{"--registry-listen", ""}, "listen"},
		{[]string{"--cas-owners", "0.0.0.0:5000"}, "port_taken"},
		{[]string{"--registry-listen", "127.0.0.1:8081"}, "port_taken"},
		{[]string{"--manager-cert", "/nonexistent/cert", "--manager-key", "/nonexistent/key"}, "manager_cert"},
		{[]string{"--manager-cert", "/nonexistent/cert"}, "usage"},
		{[]string{"--deploy-keys", "/nonexistent/keys"}, "deploy_keys"},
		{[]string{"--deploy-keys", "/etc/passwd"}, "deploy_keys"},
		{[]string{"--keep-alive", "-5s"}, "keep_alive"},
		{[]string{"--keep-alive", "10ms"}, "keep_alive"},
		{[]string{"--cas-connections", "-1"}, "cas_connections"},
		{[]string{"--cas-quota", "key-bytes=-1"}, "quota"},
		{[]string{"--cas", "/nonexistent/cas"}, "cas_missing"},
		{[]string{"--launcher", "/nonexistent/launcher"}, "launcher_missing"},
	} {
		state := folder(t)
		for _, command := range [][]string{{"install-service", "--print"}, {"install-service"}, {"up", "--detach"}} {
			if tt.rule == "" && command[0] == "up" || len(command) == 1 && tt.rule == "" {
				continue // these would really start or install it
			}
			stdout, stderr, code := cupeld(t, ":", slices.Concat(command, []string{"--state", state}, tt.flags)...)
			if tt.rule == "" && (code != 0 || !strings.HasPrefix(stdout, unitMark)) {
				t.Errorf("%v %v: exit %d: %s%s", command, tt.flags, code, stdout, stderr)
			}
			if tt.rule != "" && (code == 0 || stdout != "" || !strings.HasPrefix(stderr, "cupeld: "+tt.rule+": ") || !strings.Contains(stderr, "mend: ")) {
				t.Errorf("%v %v: exit %d: %s%s; want a refusal by %s", command, tt.flags, code, stdout, stderr, tt.rule)
			}
			for _, foreign := range []string{"missing port in address", "invalid port", "no such file or directory", "0m0s", "h0m"} {
				if strings.Contains(stderr, foreign) {
					t.Errorf("%v %v: %q in %s", command, tt.flags, foreign, stderr)
				}
			}
			if _, err := os.Stat(state); err == nil {
				t.Errorf("%v %v: the state folder was made", command, tt.flags)
			}
		}
	}
	limits, err := managerLimits(Options{Installation: upflags.Installation{Grace: time.Minute}})
	if err != nil || limits.Grace != time.Minute {
		t.Errorf("%+v, %v", limits, err)
	}
	if limits, err = managerLimits(Options{}); err != nil || limits.Grace != manager.DefaultLimits().Grace {
		t.Errorf("%+v, %v", limits, err)
	}
}

// TestGraceOfADeadCupeld: who stops the apps of a cupeld that died gives them the time
// that it was started with.
func TestGraceOfADeadCupeld(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.keptLimits().Grace; got != manager.DefaultLimits().Grace {
		t.Errorf("of an earlier release: %s", got)
	}
	for _, grace := range []time.Duration{5 * time.Minute, 0} {
		o.Grace = grace
		_, end := begin(t, o)
		if err := end(nil); err != nil { // containerd is left, as by kill -9
			t.Fatal(err)
		}
		want, err := managerLimits(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.keptLimits().Grace; got != want.Grace {
			t.Errorf("up --grace %s, and then apps have %s", grace, got)
		}
	}

	for _, damaged := range []string{"", "\x00\x00", "-1s", "20m"} {
		if err := os.WriteFile(l.path("grace"), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := l.keptLimits().Grace; got != maxGrace {
			t.Errorf("a file with %q: %s, want the longest", damaged, got)
		}
	}
}

// TestTimeoutsAgree: nobody gives up waiting for what may still go on.
func TestTimeoutsAgree(t *testing.T) {
	longest := maxGrace + node.CommitLimit
	if stopTimeout <= longest || downTimeout <= stopTimeout || unitTimeout <= downTimeout {
		t.Errorf("apps may take %s to end; they are given %s, cupeld %s, cupel down %s", longest, stopTimeout, downTimeout, unitTimeout)
	}
	if unit := string((layout{dir: "/a", id: "1"}).unitText("/b", nil)); !strings.Contains(unit, fmt.Sprintf("TimeoutStopSec=%d\n", int(unitTimeout.Seconds()))) {
		t.Errorf("unit:\n%s", unit)
	}
}

// TestFlagDefaults: what the flags show as defaults is what holds without them.
func TestFlagDefaults(t *testing.T) {
	var flags upflags.Installation
	flags.Declare(pflag.NewFlagSet("up", pflag.ContinueOnError))
	limits := manager.DefaultLimits()
	if flags.Grace != limits.Grace || flags.Drain != limits.Drain {
		t.Errorf("--grace %v, --drain %v; the manager has %v and %v", flags.Grace, flags.Drain, limits.Grace, limits.Drain)
	}
	if err := checkOptions(Options{Installation: flags}); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
}
