package castest

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/audit"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
	"cupel.dev/cupel/internal/trusted/wire"
)

// answer is what a test looks at in a reply.
type answer struct {
	Status int
	Rule   problem.Rule
	Msg    []string
}

func ask(t *testing.T, o *Owner, method, path, body string) answer {
	t.Helper()
	resp, err := o.Do(t.Context(), method, path, []byte(body), nil)
	if resp == nil {
		t.Fatal(err)
	}
	a := answer{Status: resp.StatusCode}
	if resp.StatusCode >= 300 {
		p := problem.From(err)
		a.Rule, a.Msg = p.Rule, p.Msg
		if p.RequestID == "" || p.RequestID != resp.Header.Get(owners.HeaderRequestID) {
			t.Errorf("%s %s: request id %q in the body, %q in the header", method, path, p.RequestID, resp.Header.Get(owners.HeaderRequestID))
		}
	}
	if resp.Header.Get(owners.HeaderVersion) == "" {
		t.Errorf("%s %s: no version header", method, path)
	}
	if _, err := owners.HeadFrom(resp.Header.Get(owners.HeadHeader)); err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	return a
}

func small(name string, lines ...string) string {
	return fmt.Sprintf("version: \"0.3\"\nname: %s\n%s\n", name, strings.Join(lines, "\n"))
}

// TestOwnersAPI walks through the codes and bodies that SCONE's clients know.
func TestOwnersAPI(t *testing.T) {
	e := begin(t, Options{})
	alice, bob := e.Owner(t), e.Owner(t)
	public := NewOwner(e.Owners, e.Identity, nil)
	defer public.Close()
	secrets := "secrets:\n  - {name: open, kind: ascii, value: \"42\", export_public: true}\n  - {name: closed, kind: ascii, value: \"43\"}"
	v1 := create(t, alice, []byte(small("a", secrets)))
	salted := create(t, alice, []byte(small("salted", secrets, "salt: 0123456789abcdef")))
	// Whoever may not read a session can't test guesses of its text: one answer.
	oracle := answer{403, "session_hash", []string{"Failed to read the values of '/session=a' requested by a public client", "You have insufficient rights to access session a"}}
	const missing = "0000000000000000000000000000000000000000000000000000000000000000"
	for _, c := range []struct {
		who                *Owner
		method, path, body string
		want               answer
	}{
		{alice, "GET", "/session/a", "", answer{Status: 200}},
		{alice, "GET", "/v1/sessions/a", "", answer{Status: 200}},
		{alice, "GET", "/v1/sessions//a", "", answer{Status: 200}}, // redirected
		{alice, "GET", "/v1/sessions/a?hash=" + v1.String(), "", answer{Status: 200}},
		{alice, "GET", "/v1/sessions/a?hash=" + missing, "", answer{404, "session_version_unknown", []string{"Failed to read session 'a'", "Session not found"}}},
		{alice, "GET", "/v1/sessions/a?hash=zz", "", answer{400, "session_hash", nil}},
		{alice, "GET", "/v1/sessions/x", "", answer{404, "session_unknown", []string{"Failed to read session 'x'", "Session not found"}}},
		{bob, "GET", "/v1/sessions/a", "", answer{403, "access_policy", []string{"Failed to read session 'a'", "You have insufficient rights to access session a"}}},
		{public, "GET", "/session/a", "", answer{403, "access_policy", []string{"Failed to read session 'a'", "You have insufficient rights to access session a"}}},
		{bob, "GET", "/v1/sessions/a/instances", "", answer{403, "access_policy", nil}},
		{alice, "GET", "/v1/sessions/a/instances", "", answer{Status: 200}},
		{alice, "POST", "/session", small("a", secrets), answer{Status: 201}}, // the same again
		{alice, "POST", "/session", small("a"), answer{409, "session_name_taken", []string{"Failed to create session 'a'", "Invalid previous session digest"}}},
		{alice, "POST", "/session", small("a", "predecessor: "+missing), answer{409, "predecessor_mismatch", nil}},
		{bob, "POST", "/session", small("a", "predecessor: "+v1.String()), answer{403, "access_policy", nil}},
		{alice, "POST", "/session", small("new", "predecessor: "+v1.String()), answer{409, "predecessor_of_new", nil}},
		{public, "POST", "/session", small("b"), answer{401, "client_certificate", nil}},
		{alice, "POST", "/session", "version: \"0.3\"\nname: q\nnonsense: true", answer{400, "session_unknown_key", nil}},
		{alice, "POST", "/session", small("no/child"), answer{404, "namespace_unknown", nil}},
		{bob, "POST", "/session", small("a/child"), answer{403, "access_policy", nil}},
		{alice, "POST", "/session", small("a/child"), answer{Status: 201}},
		{alice, "POST", "/session", small("a/instances"), answer{400, "session_name", nil}},
		{alice, "GET", "/v1/sessions/a/child", "", answer{Status: 200}},
		{alice, "GET", "/v1/sessions/a/child/instances", "", answer{Status: 200}},
		{bob, "POST", "/v1/volumes/reset", `{"version":1,"session":"a","volume":"v"}`, answer{403, "access_policy", []string{"Failed to reset a volume of session 'a'", "You have insufficient rights to update session a"}}},
		{alice, "POST", "/v1/volumes/reset", `{"version":1,"session":"a","volume":"v"}`, answer{404, "volume_unknown", nil}},
		{public, "GET", "/v1/values/session=a", "", answer{Status: 200}},
		{public, "GET", "/v1/values/session=a,secret=open", "", answer{Status: 200}},
		{public, "GET", "/v1/values/session=/a,secret=open", "", answer{Status: 200}},
		{alice, "GET", "/v1/values/session=a,session_hash=" + v1.String(), "", answer{Status: 200}},
		{alice, "GET", "/v1/values/session=a,session_hash=" + missing, "", answer{404, "session_version", nil}},
		{bob, "GET", "/v1/values/session=a,session_hash=" + v1.String(), "", oracle},
		{bob, "GET", "/v1/values/session=a,session_hash=" + missing, "", oracle},
		{public, "GET", "/v1/values/session=a,session_hash=" + v1.String(), "", oracle},
		{public, "GET", "/v1/values/session=a,secret=open,session_hash=" + missing, "", answer{403, "session_hash", nil}},
		{public, "GET", "/v1/values/session=salted,session_hash=" + salted.String(), "", answer{Status: 200}},
		{public, "GET", "/v1/values/session=salted,session_hash=" + missing, "", answer{404, "session_version", nil}},
		{public, "GET", "/v1/values/session=a,secret=closed", "", answer{404, "value_unknown", []string{
			"Failed to read value 'closed' of '/session=a' requested by a public client", "Secret does not exist or is not visible for a public client"}}},
		{public, "GET", "/v1/values/secret=open", "", answer{400, "value_reference", nil}},
		{public, "HEAD", "/v1/values/session=a", "", answer{Status: 405}},
		{public, "DELETE", "/v1/sessions/a", "", answer{403, "access_policy", nil}},
		{public, "PUT", "/v1/sessions/a", "", answer{405, "method", nil}},
		{public, "GET", "/nothing", "", answer{404, "path", nil}},
		{public, "GET", "/session", "", answer{400, "session_name", nil}},
		{public, "GET", "/v1/version", "", answer{Status: 200}},
		{public, "GET", "/v1/health", "", answer{Status: 200}},
		{public, "GET", "/v1/openapi.yaml", "", answer{Status: 200}},
		{public, "GET", "/v1/log?since=x", "", answer{400, "query", nil}},
		{public, "GET", "/v1/attest?nonce=12", "", answer{400, "nonce", nil}},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			if c.method == "HEAD" || c.path == "/v1/openapi.yaml" {
				resp, _ := c.who.Do(t.Context(), c.method, c.path, nil, nil)
				if resp == nil || resp.StatusCode != c.want.Status {
					t.Fatalf("%v", resp)
				}
				return
			}
			got := ask(t, c.who, c.method, c.path, c.body)
			if c.want.Msg == nil {
				if got.Status >= 300 && len(got.Msg) == 0 {
					t.Error("no message chain")
				}
				got.Msg = nil
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	var v owners.Value
	if _, err := public.Do(t.Context(), "GET", "/v1/values/session=a,secret=open", nil, &v); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(owners.Value{Kind: "string", Value: "42"}, v); d != "" {
		t.Error(d)
	}
	verifyLog(t, e, public)
}

func TestAttest(t *testing.T) {
	e := begin(t, Options{})
	o := e.Owner(t)
	nonce := [32]byte{1, 2, 3}
	var a owners.Attestation
	if _, err := o.Do(t.Context(), "GET", "/v1/attest?nonce="+hex.EncodeToString(nonce[:]), nil, &a); err != nil {
		t.Fatal(err)
	}
	v, err := dcap.New(dcap.Roots{Simulation: certs(e.Platform.Root())})
	if err != nil {
		t.Fatal(err)
	}
	claims, err := v.Verify(a.Evidence, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if claims.ReportData != wire.CASReportData(nonce, e.Identity) || claims.Measurement != CASMeasurement {
		t.Errorf("claims %+v", claims)
	}
	if a.IdentityCertificate != e.CAS.Identity().PEM() || a.SimulationRoot != string(e.Platform.RootPEM()) {
		t.Error("identity or root differ")
	}
	if err := audit.VerifyHead(e.CAS.Identity().PublicKey(), a.Head); err != nil {
		t.Error(err)
	}
}

// TestUpdate: what a new version keeps, and whom it excludes.
func TestUpdate(t *testing.T) {
	e := begin(t, Options{})
	o := e.Owner(t)
	v1 := create(t, o, sessionText("u"))
	pull, r1 := mustRelease(t, e.Instance(t, "u", "pull_repo", pullCode))
	app, app1 := mustRelease(t, e.Instance(t, "u", "client-app", appCode))
	next := strings.Replace(string(sessionText("u")), "name: u\n", "name: u\npredecessor: "+v1.String()+"\n", 1)
	next = strings.Replace(next, pullCode.String(), ident.Measurement{0x44}.String(), 1)
	v2 := create(t, o, []byte(next))

	err := pull.Post(wire.PathKeepAlive, wire.KeepAlive{Version: 1}, nil)
	refused(t, err, "instance_revoked")
	err = pull.Post(wire.PathTag, wire.TagRequest{Version: 1, Volume: r1.Volumes[0].ID, Lease: 1, Tag: ident.Digest{1}}, nil)
	refused(t, err, "instance_revoked")
	if err := app.Post(wire.PathKeepAlive, wire.KeepAlive{Version: 1}, nil); err != nil {
		t.Error(err)
	}
	_, r2 := mustRelease(t, e.Instance(t, "u", "pull_repo", ident.Measurement{0x44}))
	if v := r2.Volumes[0]; v.Access != owners.ReadWrite || v.Lease != 2 || v.ID != r1.Volumes[0].ID || string(v.Key) != string(r1.Volumes[0].Key) {
		t.Errorf("the volume's lease did not pass on: %+v", v)
	}
	_, app2 := mustRelease(t, e.Instance(t, "u", "client-app", appCode))
	if a, b := app1.Files[2].Content, app2.Files[2].Content; string(a) != string(b) || len(a) != 32 {
		t.Errorf("the generated secret changed: %q, %q", a, b)
	}
	var s owners.Session
	if _, err := o.Do(t.Context(), http.MethodGet, "/v1/sessions/u?hash="+v1.String(), nil, &s); err != nil || s.Text != strings.ReplaceAll(string(sessionText("u")), VarRoot, e.Root().String()) {
		t.Errorf("the old version: %v", err)
	}
	for _, in := range instances(t, o, "u") {
		want := v1
		if in.ID == r2.InstanceID || in.ID == app2.InstanceID {
			want = v2
		}
		if in.SessionHash != want {
			t.Errorf("instance %s has session hash %s", in.ID.Short(), in.SessionHash)
		}
	}
}
