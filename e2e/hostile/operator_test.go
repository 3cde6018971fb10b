//go:build e2e

package hostile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the CAS's database

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/instance/las"
	"cupel.dev/cupel/internal/trusted/wire"
)

var errNotDone = errors.New("the app has not tried everything yet")

// launches: each thing that an operator does to the launch ends the instance,
// before or by attestation.
func (s *scene) launches(t *testing.T) {
	program := filepath.Join(s.Dir, "evil")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncat /run/cupel/pull/token >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, order, rule string }{
		{"bind mount over git", "bind=" + program + ":/usr/bin/git", "unexpected_mount"},
		{"ld.so.preload", "bind=" + program + ":/etc/ld.so.preload", "unexpected_mount"},
		{"LD_PRELOAD for the launcher", "env=LD_PRELOAD=" + program, "host_environment"},
		{"LD_PRELOAD as the image's", "image-env=LD_PRELOAD=" + program, "measurement"},
		{"GIT_SSL_NO_VERIFY for the launcher", "env=GIT_SSL_NO_VERIFY=1", "host_environment"},
		{"GIT_SSL_NO_VERIFY as the image's", "image-env=GIT_SSL_NO_VERIFY=1", "measurement"},
		{"replaced entrypoint", "entrypoint=/bin/sh", "measurement"},
		{"another capability", "caps=CAP_SYS_PTRACE", "launch_capabilities"},
		{"a hook", "hook=/bin/true", "measurement"},
		{"no launcher at all", "args=/usr/bin/cupel-pull", "pull"},
	} {
		s.run(t, c.name, func(*testing.T) {
			s.order(c.order)
			s.refused(c.rule)
		})
	}
}

// outsiders: evidence goes to an instance's launcher and to nobody else, root of
// the machine included.
func (s *scene) outsiders(t *testing.T) {
	instance := s.owner.Healthy(victim)[0]
	sockets, err := filepath.Glob(filepath.Join(s.State, "node", "run", instance+"-*", wire.Socket))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets of %s: %v, %v", instance, sockets, err)
	}
	pid, groups := s.launcher(instance)
	t.Run("root on the machine", func(t *testing.T) {
		_, err := las.Client{Addr: "unix:" + sockets[0]}.Quote(t.Context(), evidence.Data64{1})
		if p := problem.From(err); err == nil || p.Rule != "las_peer" {
			t.Errorf("evidence for root: %v, want a refusal by las_peer", err)
		}
	})
	// The strongest place short of being the launcher: its control group, its
	// namespaces, its binary's file system.
	t.Run("beside the launcher", func(t *testing.T) {
		const ask = `
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/cupel/las.sock")
body = '{"version":1,"report_data":"' + "01" * 64 + '"}'
s.sendall(("POST ` + wire.PathQuote + ` HTTP/1.1\r\nHost: las\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body).encode())
answer = b""
while True:
    part = s.recv(65536)
    if not part:
        break
    answer += part
print(answer.decode())
`
		script := `for f in "$@"; do echo $$ > "$f" || exit 9; done; exec nsenter -t ` + strconv.Itoa(pid) + ` -m -n -i -u -p /usr/bin/python3 -c "$ASK"`
		cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", script, "sh"}, groups...)...)
		cmd.Env = append(os.Environ(), "ASK="+ask)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "las_peer") || strings.Contains(string(out), `"quote"`) {
			t.Errorf("want a refusal by las_peer: %v: %s", err, out)
		}
	})
}

// launcher finds an instance's first process and the files that move a process
// into its control groups.
func (s *scene) launcher(instance string) (pid int, groups []string) {
	s.T.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		status, _ := os.ReadFile(filepath.Join(dir, "status"))
		if strings.Contains(string(cgroup), "/"+instance+"-") && firstInSpace(string(status)) {
			pid, _ = strconv.Atoi(filepath.Base(dir))
			for line := range strings.Lines(string(cgroup)) {
				fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
				file := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(fields[1], "name="), fields[2], "cgroup.procs")
				if _, err := os.Stat(file); err == nil && strings.Contains(fields[2], "/"+instance+"-") {
					groups = append(groups, file)
				}
			}
			if len(groups) == 0 {
				s.T.Fatalf("no control group of %s in:\n%s", instance, cgroup)
			}
			return pid, groups
		}
	}
	s.T.Fatalf("no launcher of %s", instance)
	return 0, nil
}

// firstInSpace tells from /proc/PID/status whether the process is number 1 of a
// pid namespace below ours.
func firstInSpace(status string) bool {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			ids := strings.Fields(rest)
			return len(ids) == 2 && ids[1] == "1"
		}
	}
	return false
}

// rogueCAS: instances are sent to a CAS of the operator's own. It presents a
// chain of the right form; the launcher finds that its launch was for another.
func (s *scene) rogueCAS(t *testing.T) {
	var asked atomic.Int32
	ln, err := tls.Listen("tcp", "0.0.0.0:0", &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{rogueChain(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	var connections atomic.Int32
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				connections.Add(1)
				n, _ := io.ReadAtLeast(conn, make([]byte, 1), 1)
				asked.Add(int32(n))
			}()
		}
	}()
	s.order("cas=host.cupel.internal:" + strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
	s.refused("launch_binding")
	if connections.Load() == 0 || asked.Load() != 0 {
		t.Errorf("the rogue CAS got %d connections and %d bytes, want some and none", connections.Load(), asked.Load())
	}
}

func rogueChain(t *testing.T) tls.Certificate {
	t.Helper()
	make := func(cn string, ca bool, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		if parent == nil {
			parent, by = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		c, err = x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	id, idKey := make("cupel CAS identity", true, nil, nil)
	leaf, key := make("cupel CAS", false, id, idKey)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, id.Raw}, PrivateKey: key}
}

// olderData: the node answers with the generation before the one that the CAS
// knows. The CAS released by then; the launcher refuses, and nothing starts.
func (s *scene) olderData(t *testing.T) {
	s.order("volume=older")
	p := s.owner.MustNotDeploy("volume_rolled_back", victim, "--port", s.port)
	t.Logf("refused: %+v", p)
	all := s.owner.CASInstances(victim)
	last := all[len(all)-1]
	if last.State != "exited" || last.ExitReason != "volume_rolled_back" {
		t.Errorf("the CAS says of the last instance: %s, %q", last.State, last.ExitReason)
	}
}

// rowPutBack: while the CAS is down, the operator puts the victim's volume back
// to where its row stood a deployment earlier. The log knows better.
func (s *scene) rowPutBack(t *testing.T) {
	const id = "volume/" + victim + "@genesis"
	old := s.readRow(id)
	s.deploy()
	current := s.readRow(id)
	if current.version <= old.version {
		t.Fatalf("the row did not move: version %d, was %d", current.version, old.version)
	}
	before := s.released()
	s.withoutCAS(func() { s.writeRow(id, old) })
	// Asked what runs, the CAS sees it already: nothing is handed to the operator.
	s.owner.MustRefuse("row_rolled_back", "deploy", victim, "--memory", "256M", "--port", s.port)
	s.withoutCAS(func() { s.writeRow(id, current) })
	if after := s.released(); !slices.Equal(after, before) {
		t.Errorf("the CAS released to somebody: %d instances, were %d", len(after), len(before))
	}
}

type row struct {
	version int64
	sealed  []byte
}

func (s *scene) database(dir string, f func(*sql.DB) error) {
	s.T.Helper()
	path := filepath.Join(dir, "cas.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		s.T.Fatal(err)
	}
	if err := errors.Join(f(db), db.Close()); err != nil {
		s.T.Fatal(err)
	}
}

// readRow reads a copy: the CAS has its database for itself.
func (s *scene) readRow(id string) (r row) {
	s.T.Helper()
	dir := s.T.TempDir()
	for _, name := range []string{"cas.db", "cas.db-wal"} {
		b, err := os.ReadFile(filepath.Join(s.State, "cas", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			s.T.Fatal(err)
		}
	}
	s.database(dir, func(db *sql.DB) error {
		return db.QueryRow("SELECT version, sealed FROM rows WHERE id = ?", id).Scan(&r.version, &r.sealed)
	})
	return r
}

func (s *scene) writeRow(id string, r row) {
	s.T.Helper()
	s.database(filepath.Join(s.State, "cas"), func(db *sql.DB) error {
		result, err := db.Exec("UPDATE rows SET version = ?, sealed = ? WHERE id = ?", r.version, r.sealed, id)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n != 1 {
			return fmt.Errorf("%d rows changed (%w)", n, err)
		}
		return nil
	})
}

// withoutCAS kills the daemon, with which the CAS ends, and brings both back
// after f. Apps go on meanwhile.
func (s *scene) withoutCAS(f func()) {
	s.T.Helper()
	s.Kill("cupeld", syscall.SIGKILL)
	s.Eventually(20*time.Second, func() error {
		if left := s.Processes("cupel-cas"); len(left) > 0 {
			return fmt.Errorf("the CAS lives on: %v", left)
		}
		return nil
	})
	f()
	s.Up(nil, s.env())
}
