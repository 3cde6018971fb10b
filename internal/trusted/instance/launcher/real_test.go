package launcher

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/testing/castest"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/wire"
)

// onRealCAS makes the sandbox's instance one of a service at a real CAS, with
// evidence over what is really launched.
func (s *sandbox) onRealCAS(e *castest.Env, service ident.ServiceName) {
	t := s.t
	t.Helper()
	s.forward(e.Instances)
	s.env[2] = "CUPEL_CONFIG_ID=real/" + string(service)
	s.grant(e.Token(t.Context(), "real", service).Reveal())
	s.host.configID = wire.LaunchBinding(e.Identity, "real", service)
	s.host.quote = func(configID, reportData evidence.Data64) (evidence.Evidence, error) {
		spec, err := os.ReadFile(filepath.Join(s.bundle, "config.json"))
		if err != nil {
			return evidence.Evidence{}, err
		}
		m, err := launch.Measure(spec, s.img, launcherDigest(t))
		if err != nil {
			return evidence.Evidence{}, err
		}
		return e.Platform.Quote(simtee.Launch{Measurement: m, Signer: simtee.Signer(), ConfigID: configID, Debug: true}, reportData)
	}
}

// forward makes to reachable at the instance's CAS address.
func (s *sandbox) forward(to string) {
	l := s.net.listen(s.t, "127.0.0.1:0")
	s.t.Cleanup(func() { _ = l.Close() })
	s.env[0] = "CUPEL_CAS_ADDR=" + l.Addr().String()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); _ = out.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
}

func launcherDigest(t testing.TB) ident.Digest {
	t.Helper()
	bin, err := buildLauncher()
	must(t, err)
	b, err := os.ReadFile(bin)
	must(t, err)
	return ident.Sum(b)
}

// TestRealCAS is the road with nothing faked but the hardware: session, quote,
// verification, release, keys, volume tags and leases.
func TestRealCAS(t *testing.T) {
	t.Parallel()
	writer := newSandbox(t)
	e := castest.Start(t, castest.Options{})
	m, err := launch.Expected(launch.Newest, writer.img, launcherDigest(t))
	must(t, err)
	owner := e.Owner(t)
	text := fmt.Sprintf(`version: "0.3"
name: real
services:
  - {name: write, image_name: write, mrenclaves: [%[1]s], command: /bin/sh /run/cupel/script, pwd: /, environment: {TOKEN: "$$SCONE::token$$"}}
  - {name: read, image_name: read, mrenclaves: [%[1]s], command: cat /home/app/data/f, pwd: /}
secrets:
  - {name: token, kind: ascii, value: "t0ken"}
volumes:
  - name: genesis
images:
  - name: write
    volumes: [{name: genesis, path: /home/app/data, update_policy: rollback_protected}]
    injection_files: [{path: /run/cupel/script, content: "echo $TOKEN >> /home/app/data/f"}]
  - name: read
    volumes: [{name: genesis, path: /home/app/data, update_policy: ephemeral}]
security:
  attestation: {tolerate: ["simulation:$SIMULATION_ROOT"]}
`, m)
	_, err = owner.Do(t.Context(), http.MethodPost, owners.PathSessions, []byte(text), nil)
	must(t, err)

	writer.onRealCAS(e, "write")
	writer.run(0)
	again := newSandbox(t)
	again.host.stored = writer.host.stored
	again.onRealCAS(e, "write")
	again.run(0)
	reader := newSandbox(t)
	reader.host.stored = again.host.stored
	reader.onRealCAS(e, "read")
	reader.run(0)
	if reader.out.String() != "t0ken\nt0ken\n" {
		t.Errorf("the reader got %q, %s", &reader.out, &reader.errs)
	}

	older := newSandbox(t)
	for name, b := range writer.host.stored {
		if id, ok := strings.CutSuffix(name, "@1"); ok {
			older.host.stored[id+"@2"] = b
		}
	}
	older.onRealCAS(e, "read")
	older.refused(exitRefused, "volume_rolled_back")

	hostile := newSandbox(t)
	hostile.img.Cmd = []string{"/bin/sh", "-c", "steal"}
	hostile.onRealCAS(e, "read")
	hostile.refused(exitRefused, "measurement")

	var list owners.Instances
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err = owner.Do(t.Context(), http.MethodGet, owners.PathSessions+"/real"+owners.SuffixInstances, nil, &list)
		must(t, err)
		running := 0
		for _, in := range list.Instances {
			if in.State == "running" {
				running++
			}
		}
		if len(list.Instances) == 4 && running == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the CAS lists %+v", list.Instances)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestRealRenewal: a certificate of a real CAS is renewed while the app runs, which
// is told and finds it where the old one was. A minute is the shortest life that a
// CAS renews.
func TestRealRenewal(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	e := castest.Start(t, castest.Options{KeepAlive: time.Second})
	m, err := launch.Expected(launch.Newest, s.img, launcherDigest(t))
	must(t, err)
	text := fmt.Sprintf(`version: "0.3"
name: real
services:
  - {name: web, image_name: web, mrenclaves: [%s], command: /bin/sh /srv/app, pwd: /, cupel: {on_renewal: SIGHUP}}
secrets:
  - {name: ca_key, kind: private-key}
  - {name: ca, kind: x509-ca, private_key: ca_key, common_name: CA}
  - {name: cert, kind: x509, issuer: ca, common_name: app, valid_for: 60s}
images:
  - name: web
    injection_files:
      - {path: /run/cupel/tls/cert.pem, content: "$$SCONE::cert:crt$$"}
      - {path: /run/cupel/tls/key.pem, content: "$$SCONE::cert:privatekey$$"}
      - path: /srv/app
        content: |
          trap 'echo told' HUP
          cd /run/cupel/tls
          cp cert.pem key.pem /run/cupel
          while cmp -s cert.pem /run/cupel/cert.pem; do sleep 0.1; done
          sleep 0.3
          cmp -s key.pem /run/cupel/key.pem || echo another key
          grep -c BEGIN cert.pem
security:
  attestation: {tolerate: ["simulation:$SIMULATION_ROOT"]}
`, m)
	owner := e.Owner(t)
	_, err = owner.Do(t.Context(), http.MethodPost, owners.PathSessions, []byte(text), nil)
	must(t, err)

	s.onRealCAS(e, "web")
	s.run(0)
	s.wantOut("told", "another key", "1")
	if until := s.host.last.CertificateUntil; until != 0 {
		t.Errorf("the node is told to replace the instance at %d", until)
	}
}
