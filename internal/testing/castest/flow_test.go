package castest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/audit"
	"cupel.dev/cupel/internal/trusted/wire"
)

var (
	pullCode = ident.Measurement{0x11}
	appCode  = ident.Measurement{0x22}
)

// sessionText is the main road's session; security opts in to simulation.
func sessionText(name string, extra ...string) []byte {
	return []byte(fmt.Sprintf(`version: "0.3"
name: %s
services:
  - name: pull_repo
    image_name: pull_repo
    mrenclaves: [%s]
    command: /usr/bin/cupel-pull
    environment:
      CUPEL_PULL_DIR: /home/client-app/repo
      TOKEN: "x-$$SCONE::access_token$$-y"
    pwd: /
  - name: client-app
    image_name: client-app
    mrenclaves: [%s]
    command: python3 /home/client-app/repo/client-app.py
    pwd: /
secrets:
  - {name: access_token, kind: ascii, value: "t0ken"}
  - {name: made, kind: binary, size: 16, export_public: true}
  - {name: unused, kind: ascii}
  - {name: app_ca_key, kind: private-key}
  - {name: app_ca, kind: x509-ca, private_key: app_ca_key, common_name: App CA, export_public: true}
  - {name: app_cert, kind: x509, issuer: app_ca, common_name: app, dns: [localhost, 127.0.0.1]}
volumes:
  - name: genesis
images:
  - name: pull_repo
    volumes:
      - {name: genesis, path: /home/client-app, update_policy: rollback_protected}
    injection_files:
      - {path: /run/cupel/pull/token, content: "$$SCONE::access_token$$"}
  - name: client-app
    volumes:
      - {name: genesis, path: /home/client-app, update_policy: ephemeral}
    injection_files:
      - {path: /run/cupel/tls/cert.pem, content: "$$SCONE::app_cert:crt$$$$SCONE::app_cert:chain$$"}
      - {path: /run/cupel/tls/key.pem, content: "$$SCONE::app_cert:privatekey$$"}
      - {path: /run/cupel/made, content: "$$SCONE::made:hex$$"}
security:
  attestation:
    tolerate: ["simulation:$SIMULATION_ROOT"]
%s`, name, pullCode, appCode, strings.Join(extra, "\n")))
}

// create uploads a session and returns its hash.
func create(t testing.TB, o *Owner, text []byte) ident.Digest {
	t.Helper()
	var c owners.Created
	resp, err := o.Do(t.Context(), http.MethodPost, owners.PathSessions, text, &c)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("status %d", resp.StatusCode)
	}
	return c.Hash
}

// mustRelease releases or fails the test.
func mustRelease(t testing.TB, in *Instance) (*Conn, *wire.ReleaseReply) {
	t.Helper()
	c, r, err := in.Release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, r
}

// refused checks which rule refused.
func refused(t testing.TB, err error, rule problem.Rule) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want a refusal by %s", rule)
	}
	if p := problem.From(err); p.Rule != rule {
		t.Fatalf("refused by %s, want %s: %v", p.Rule, rule, err)
	}
	t.Log(err)
}

func instances(t testing.TB, o *Owner, name string) []owners.Instance {
	t.Helper()
	var list owners.Instances
	if _, err := o.Do(t.Context(), http.MethodGet, owners.PathSessions+"/"+name+owners.SuffixInstances, nil, &list); err != nil {
		t.Fatal(err)
	}
	return list.Instances
}

func verifyLog(t testing.TB, e *Env, o *Owner) {
	t.Helper()
	var since uint64
	var all []owners.Entry
	for {
		var page owners.LogPage
		if _, err := o.Do(context.Background(), http.MethodGet, fmt.Sprintf("%s?since=%d", owners.PathLog, since), nil, &page); err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Entries...)
		if n := len(page.Entries); n > 0 {
			since = page.Entries[n-1].Seq
		}
		if since < page.Head.Seq {
			continue
		}
		if err := audit.Verify(e.CAS.Identity().PublicKey(), owners.SignedHead{}, all, page.Head); err != nil {
			t.Fatal(err)
		}
		return
	}
}

func TestMainRoad(t *testing.T) {
	e := begin(t, Options{})
	o := e.Owner(t)
	hash := create(t, o, sessionText("demo"))

	var s owners.Session
	if _, err := o.Do(t.Context(), http.MethodGet, "/session/demo", nil, &s); err != nil || s.Hash != hash {
		t.Fatalf("read back: %v, %v", s.Hash, err)
	}
	pull, r := mustRelease(t, e.Instance(t, "demo", "pull_repo", pullCode))
	if got := strings.Join(r.Argv, " "); got != "/usr/bin/cupel-pull" {
		t.Errorf("argv %q", got)
	}
	if len(r.Env) != 2 || r.Env[1] != "TOKEN=x-t0ken-y" {
		t.Errorf("env %q", r.Env)
	}
	if len(r.Files) != 1 || string(r.Files[0].Content) != "t0ken" {
		t.Errorf("files %v", r.Files)
	}
	v := r.Volumes[0]
	if v.Access != owners.ReadWrite || v.Generation != 0 || len(v.Key) != 32 || v.Lease != 1 {
		t.Fatalf("volume %+v", v)
	}
	var tag wire.TagReply
	if err := pull.Post(wire.PathTag, wire.TagRequest{Version: 1, Volume: v.ID, Lease: v.Lease, Tag: ident.Digest{7}}, &tag); err != nil || tag.Generation != 1 {
		t.Fatalf("commit: %+v, %v", tag, err)
	}
	if err := pull.Post(wire.PathExit, wire.Exit{Version: 1}, nil); err != nil {
		t.Fatal(err)
	}
	_, app := mustRelease(t, e.Instance(t, "demo", "client-app", appCode))
	if v := app.Volumes[0]; v.Access != owners.ReadOnly || v.Generation != 1 || v.Tag != (ident.Digest{7}) || v.Lease != 0 {
		t.Errorf("volume %+v", v)
	}
	checkAppCertificate(t, o, app)
	list := instances(t, o, "demo")
	if len(list) != 2 || list[0].State != owners.Exited || *list[0].ExitCode != 0 || list[1].State != owners.Running || !list[1].Claims.Simulated {
		t.Errorf("instances %+v", list)
	}
	if sgx := list[1].Claims.SGX; sgx == nil || sgx.Attributes&2 == 0 || sgx.XFRM != 3 {
		t.Errorf("attributes, XFRM and MISCSELECT in the list: %+v", sgx)
	}
	verifyLog(t, e, o)
}
