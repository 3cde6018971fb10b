package template

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/reference"
	"cupel.dev/cupel/internal/trusted/session"
)

// known vouches for the two runtimes.
var known = []reference.Value{{Measurement: pullM, Runtime: PullRuntime}, {Measurement: appM, Runtime: "python"}}

func review(t *testing.T, text string, in Inputs, flags ...string) *Reviewed {
	t.Helper()
	accepts, err := AcceptValues(known, flags)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Review([]byte(text), in, accepts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// owners are the inputs without measurements, as a person gives them.
func owners() Inputs {
	in := inputs()
	in.Measurements = nil
	return in
}

func TestReviewAccepts(t *testing.T) {
	clean := operators(t)
	parts := strings.SplitN(clean, "\n\n", 4)
	for name, text := range map[string]string{
		"same":             clean,
		"comments":         "# hello\n" + strings.ReplaceAll(clean, "\nsecrets:", "\n# $ACCESS_TOKEN\nsecrets:"),
		"order":            "access_policy: {update: [CREATOR], read: [CREATOR]}\n" + strings.Replace(clean, "access_policy:\n  read: [CREATOR]\n  update: [CREATOR]\n", "", 1),
		"old spelling":     strings.Replace(clean, "    attestation:\n      - mrenclave: [", "    mrenclaves: [", 1),
		"defaults unsaid":  strings.Replace(clean, "        update_policy: rollback_protected\n", "", 1),
		"defaults said":    clean + "security: {attestation: {mode: hardware, tolerate: []}}\n",
		"command as list":  strings.Replace(clean, `"python3 /home/client-app/repo/client-app.py"`, "[python3, /home/client-app/repo/client-app.py]", 1),
		"braced variables": strings.Replace(clean, "$GIT_REPO", "${GIT_REPO}", 1),
		"sections moved":   parts[0] + "\n\n" + parts[2] + "\n\n" + parts[1] + "\n\n" + parts[3],
	} {
		t.Run(name, func(t *testing.T) {
			r := review(t, text, owners())
			if err := Refuse(r.Differences); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(clean, string(r.Text)); d != "" {
				t.Errorf("what would be uploaded is not the owner's own template: %s", d)
			}
		})
	}
}

// TestReviewCatches plays the operator who changes the template that they offer.
func TestReviewCatches(t *testing.T) {
	clean := operators(t)
	replace := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("the template holds no %q", old)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	hex := func(m ident.Measurement) string { return m.String() }
	for name, c := range map[string]struct {
		attack func(string) string
		path   string // of a difference that must be named
		actual string // part of what it must show
		flag   string // part of the flag that it must name; "" for none
	}{
		"own puller":                {replace(hex(pullM), hex(evilM)), "services[pull_repo].attestation", hex(evilM), "--accept-measurement pull_repo=" + hex(evilM)},
		"own runtime":               {replace(hex(appM), hex(evilM)), "services[client-app].attestation", hex(evilM), "--accept-measurement client-app=" + hex(evilM)},
		"app's runtime as puller":   {replace(hex(pullM), hex(appM)), "services[pull_repo].attestation", hex(appM), "--accept-measurement"},
		"second measurement":        {replace(hex(pullM), hex(pullM)+`", "`+hex(evilM)), "services[pull_repo].attestation[0].mrenclave[1]", hex(evilM), ""},
		"second variant":            {replace("    command: /usr/bin/cupel-pull", "      - signer: {mrsigner: "+hex(evilM)+", isvprodid: 0}\n    command: /usr/bin/cupel-pull"), "services[pull_repo].attestation[1]", hex(evilM), ""},
		"no measurement":            {replace("    attestation:\n      - mrenclave: [\""+hex(pullM)+"\"]\n", ""), "services[pull_repo].attestation", "nothing", ""},
		"signer instead":            {replace("mrenclave: [\""+hex(pullM)+"\"]", "signer: {mrsigner: "+hex(evilM)+", isvprodid: 0}"), "services[pull_repo].attestation[0].signer", hex(evilM), ""},
		"shell":                     {replace(`"python3 /home/client-app/repo/client-app.py"`, `sh -c "cat /run/cupel/tls/key.pem"`), "services[client-app].command[0]", "another text (2 characters, not shown)", "--command"},
		"puller's shell":            {replace("command: /usr/bin/cupel-pull", `command: sh -c "cat /run/cupel/pull/token"`), "services[pull_repo].command[0]", "another text (2 characters, not shown)", ""},
		"argument":                  {replace("client-app.py\"\n    pwd", "client-app.py --debug\"\n    pwd"), "services[client-app].command[2]", "another text (7 characters, not shown)", "--command"},
		"read any":                  {replace("read: [CREATOR]", "read: [ANY]"), "access_policy.read[0]", "ANY", ""},
		"read bare any":             {replace("read: [CREATOR]", "read: ANY"), "access_policy.read[0]", "ANY", ""},
		"read by key":               {replace("read: [CREATOR]", "read: [CREATOR, "+hex(evilM)+"]"), "access_policy.read[1]", hex(evilM), ""},
		"update any":                {replace("update: [CREATOR]", "update: ANY"), "access_policy.update[0]", "ANY", ""},
		"create sessions":           {func(s string) string { return s + "  create_sessions: ANY\n" }, "access_policy.create_sessions[0]", "ANY", ""},
		"export":                    {replace("    value: \"$ACCESS_TOKEN\"", "    value: \"$ACCESS_TOKEN\"\n    export: {session: operator}"), "secrets[access_token].export", "operator", ""},
		"export volume":             {replace("volumes:\n  - name: genesis", "volumes:\n  - name: genesis\n    export: [{session: operator}]"), "volumes[genesis].export", "operator", ""},
		"export_public":             {replace("    value: \"$ACCESS_TOKEN\"", "    value: \"$ACCESS_TOKEN\"\n    export_public: true"), "secrets[access_token].export_public", "true", ""},
		"import":                    {replace("    kind: private-key\n", "    kind: private-key\n    import: {session: operator, secret: key}\n"), "secrets[app_ca_key].import", "operator", ""},
		"proxy":                     {replace("    environment:\n", "    environment:\n      https_proxy: http://evil:3128\n"), "services[pull_repo].environment.https_proxy", "not shown", ""},
		"preload":                   {replace("    pwd: /home/client-app/repo\n", "    pwd: /home/client-app/repo\n    environment: {LD_PRELOAD: /home/client-app/x.so}\n"), "services[client-app].environment.LD_PRELOAD", "not shown", ""},
		"token in environment":      {replace("    environment:\n", "    environment:\n      T: $$SCONE::access_token$$\n"), "services[pull_repo].environment.T", "access_token", ""},
		"token for the app":         {replace("    command: \"python3", "    environment: {T: $$SCONE::access_token$$}\n    command: \"python3"), "services[client-app].environment.T", "access_token", ""},
		"pull elsewhere":            {replace("CUPEL_PULL_DIR: /home/client-app/repo", "CUPEL_PULL_DIR: /tmp"), "services[pull_repo].environment.CUPEL_PULL_DIR", "/tmp", ""},
		"pull another ref":          {replace("      CUPEL_PULL_EXPECT", "      CUPEL_PULL_REF: evil\n      CUPEL_PULL_EXPECT"), "services[pull_repo].environment.CUPEL_PULL_REF", "not shown", "--ref"},
		"other repository":          {replace(`value: "$GIT_REPO"`, `value: "https://evil/repo.git"`), "secrets[git_repo].value", "not shown", ""},
		"own certificate authority": {replace(`value: "$GIT_CA"`, `value: "-----BEGIN CERTIFICATE-----"`), "secrets[git_ca].value", "not shown", ""},
		"token beside repository":   {replace(`value: "$GIT_REPO"`, `value: "https://evil/$ACCESS_TOKEN"`), "secrets[git_repo].value", "not shown", ""},
		"fixed name":                {replace("name: $SESSION", "name: operators"), "name", "operators", ""},
		"variables swapped":         {replace(`"$GIT_REPO"`, `"$ACCESS_TOKEN"`), "secrets[git_repo].value", "$ACCESS_TOKEN", ""},
		"extra service":             {replace("\nsecrets:", "  - {name: spy, image_name: pull_repo, command: spy, mrenclaves: ["+hex(evilM)+"]}\n\nsecrets:"), "services[spy]", hex(evilM), ""},
		"second puller":             {replace("\nsecrets:", "  - {name: pull_repo, mrenclaves: ["+hex(evilM)+"]}\n\nsecrets:"), "services[pull_repo#2]", hex(evilM), ""},
		"missing service":           {replace("  - name: client-app\n    image_name: client-app\n", "  - name: client-app2\n    image_name: client-app\n"), "services[client-app]", "nothing", ""},
		"extra secret":              {replace("secrets:\n", "secrets:\n  - {name: x, kind: ascii}\n"), "secrets[x]", "ascii", ""},
		"known key":                 {replace("kind: private-key\n", "kind: private-key\n    value: \"-----BEGIN PRIVATE KEY-----\"\n"), "secrets[app_ca_key].value", "not shown", ""},
		"self-made authority":       {replace("    issuer: app_ca\n", "    private_key: app_ca_key\n"), "secrets[app_cert].private_key", "app_ca_key", ""},
		"extra volume":              {replace("volumes:\n  - name: genesis\n", "volumes:\n  - name: genesis\n  - name: x\n"), "volumes[x]", "x", ""},
		"renamed volume":            {func(s string) string { return strings.ReplaceAll(s, "genesis", "other") }, "volumes[other]", "other", "--volume"},
		"extra file":                {replace("    injection_files:\n", "    injection_files:\n      - {path: /etc/gitconfig, content: \"[http] sslVerify=false\"}\n"), "images[pull_repo].injection_files[/etc/gitconfig]", "not shown", ""},
		"changed path":              {replace("/run/cupel/pull/token", "/home/shared/token"), "images[pull_repo].injection_files[/home/shared/token]", "access_token", ""},
		"file in the volume":        {replace("/run/cupel/pull/token", "/home/client-app/token"), "images[pull_repo].injection_files[/home/client-app/token]", "access_token", ""},
		"changed content":           {replace("$$SCONE::git_ca$$", "$$SCONE::access_token$$"), "images[pull_repo].injection_files[/run/cupel/pull/ca.pem].content", "access_token", ""},
		"permission":                {replace("content: $$SCONE::access_token$$", "content: $$SCONE::access_token$$\n        permission: 0o444"), "images[pull_repo].injection_files[/run/cupel/pull/token].permission", "0o444", ""},
		"image swapped":             {replace("image_name: client-app", "image_name: pull_repo"), "services[client-app].image_name", "pull_repo", ""},
		"app may write":             {replace("update_policy: ephemeral", "update_policy: rollback_protected"), "images[client-app].volumes[genesis].update_policy", "rollback_protected", ""},
		"no rollback protection":    {replace("update_policy: rollback_protected", "update_policy: no_rollback_protection"), "images[pull_repo].volumes[genesis].update_policy", "no_rollback_protection", ""},
		"mount elsewhere":           {replace("path: /home/client-app\n", "path: /home/elsewhere\n"), "images[pull_repo].volumes[genesis].path", "/home/elsewhere", ""},
		"debug mode":                {func(s string) string { return s + "security: {attestation: {tolerate: [debug-mode]}}\n" }, "security.attestation.tolerate[0]", "debug-mode", "--simulation"},
		"simulation":                {func(s string) string { return s + "security: {attestation: {tolerate: [debug-mode, simulation]}}\n" }, "security.attestation.tolerate[1]", "simulation", "--simulation"},
		"outdated":                  {func(s string) string { return s + "security: {attestation: {tolerate: [outdated-tcb]}}\n" }, "security.attestation.tolerate[0]", "outdated-tcb", ""},
		"advisories":                {func(s string) string { return s + "security: {attestation: {ignore_advisories: [INTEL-SA-00161]}}\n" }, "security.attestation.ignore_advisories[0]", "INTEL-SA-00161", ""},
		"all advisories": {func(s string) string {
			return s + "security: {attestation: {tolerate: [debug-mode], ignore_advisories: \"*\"}}\n"
		}, "security.attestation.ignore_advisories[0]", "*", ""},
		"no attestation":    {func(s string) string { return s + "security: {attestation: {mode: none}}\n" }, "security.attestation.mode", "none", ""},
		"other names":       {replace("- localhost", "- evil.example"), "secrets[app_cert].dns[0]", "another text (12 characters, not shown)", "--dns"},
		"more names":        {replace("- localhost", "- localhost\n      - evil.example"), "secrets[app_cert].dns[1]", "not shown", "--dns"},
		"predecessor":       {func(s string) string { return s + "predecessor: " + hex(evilM) + "\n" }, "predecessor", hex(evilM), ""},
		"creator":           {func(s string) string { return s + "creator: {signer: x}\n" }, "creator", "signer", ""},
		"unknown key":       {func(s string) string { return s + "exports: {}\nxyz: 1\n" }, "xyz", "1", ""},
		"working directory": {replace("pwd: /tmp", "pwd: /home/client-app"), "services[pull_repo].pwd", "/home/client-app", ""},
		"language version":  {replace(`version: "0.3"`, `version: "0.3.12"`), "version", "0.3.12", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := review(t, c.attack(clean), owners())
			err := Refuse(r.Differences)
			if err == nil {
				t.Fatal("the operator's change was not noticed")
			}
			if p := problem.From(err); p.Kind != problem.Denied || p.Rule != "template_differs" || len(p.Msg) != len(r.Differences) {
				t.Errorf("refusal: %+v", p)
			}
			for _, d := range r.Differences {
				if d.Expected == "" || d.Actual == "" || d.Mend == "" {
					t.Errorf("incomplete: %+v", d)
				}
				if !strings.Contains(err.Error(), d.Path) {
					t.Errorf("the refusal does not name %s", d.Path)
				}
				if d.Path == c.path && strings.Contains(d.Actual, c.actual) && strings.Contains(d.Flag, c.flag) && (d.Flag == "") == (c.flag == "") {
					return
				}
			}
			t.Errorf("no difference at %s with %q and flag %q:\n%v", c.path, c.actual, c.flag, err)
		})
	}
}

func TestReviewFlags(t *testing.T) {
	attacked := strings.Replace(operators(t), pullM.String(), evilM.String(), 1)
	for _, flag := range []string{evilM.String(), "pull_repo=" + evilM.String()} {
		r := review(t, attacked, owners(), flag)
		if err := Refuse(r.Differences); err != nil {
			t.Errorf("%s: %v", flag, err)
		}
		if r.Measurements[PullService] != evilM || !strings.Contains(string(r.Text), evilM.String()) {
			t.Errorf("%s: the accepted measurement is not in the text", flag)
		}
	}
	if r := review(t, attacked, owners(), "client-app="+evilM.String()); len(r.Differences) != 1 {
		t.Errorf("accepted for another service: %v", r.Differences)
	}
	// Measurements that the owner gives outright leave no choice to the file.
	in := inputs()
	if r := review(t, attacked, in); len(r.Differences) != 1 || r.Measurements[PullService] != pullM {
		t.Errorf("the file won against the owner: %v", r.Differences)
	}
	for _, bad := range []string{"", "x", "pull_repo=", "a b=" + evilM.String()} {
		if _, err := AcceptValues(nil, []string{bad}); err == nil {
			t.Errorf("--accept-measurement %q was accepted", bad)
		}
	}
}

// TestReviewTakesTheNewest: an operator who goes on with packages of before, which
// the owner once measured, is found out; the owner may name them all the same.
func TestReviewTakesTheNewest(t *testing.T) {
	day := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	old := ident.Measurement(ident.Sum([]byte("the python runtime of before")))
	known := []reference.Value{
		{Measurement: pullM, Runtime: PullRuntime, IndexDate: day, At: day},
		{Measurement: appM, Runtime: "python", IndexDate: day, At: day},
		{Measurement: old, Runtime: "python", IndexDate: day.AddDate(0, -1, 0), At: day.AddDate(0, 0, 1)},
	}
	text := strings.Replace(operators(t), appM.String(), old.String(), 1)
	judge := func(text string, flags ...string) error {
		t.Helper()
		accepts, err := AcceptValues(known, flags)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Review([]byte(text), owners(), accepts)
		if err != nil {
			t.Fatal(err)
		}
		return Refuse(r.Differences)
	}

	if err := judge(operators(t)); err != nil {
		t.Errorf("the newest: %v", err)
	}
	err := judge(text)
	for _, want := range []string{
		"services[client-app].attestation", appM.String() + ", the newest measurement of the runtime python that you vouch for (packages as of 2026-11-20)",
		old.String() + ", that you vouched for on 2026-11-21 (packages as of 2026-10-20)", "--accept-measurement client-app=" + old.String(),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
	if err := judge(text, "client-app="+old.String()); err != nil {
		t.Errorf("named: %v", err)
	}
}

func TestReviewRefusesBrokenFiles(t *testing.T) {
	accepts, err := AcceptValues(known, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "no YAML": "a: [", "duplicate": operators(t) + "name: x\n", "anchor": "a: &x 1\n",
	} {
		if _, err := Review([]byte(text), owners(), accepts); err == nil || problem.KindOf(err) != problem.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDifferencesAreHarmlessToShow plays the operator who paints over the
// owner's terminal.
func TestDifferencesAreHarmlessToShow(t *testing.T) {
	const paint = `\e[2J\r\u202e`
	clean := operators(t)
	for _, text := range []string{
		strings.Replace(clean, "    environment:\n", "    environment:\n      \"A"+paint+"\": x\n", 1),
		strings.Replace(clean, "    environment:\n", "    environment:\n      A: \"x"+paint+"\"\n", 1),
		strings.Replace(clean, "    environment:\n", "    environment:\n      \"A"+paint+"\":\n", 1),
		strings.Replace(clean, "secrets:\n", "secrets:\n  - {name: \""+paint+"\", kind: \""+paint+"\"}\n", 1),
		clean + "\"" + paint + "\": {\"" + paint + "\": x}\n",
	} {
		err := Refuse(review(t, text, owners()).Differences)
		if err == nil || strings.ContainsAny(err.Error(), "\x1b\r\u202e") {
			t.Errorf("%q", err)
		}
	}
}

func TestSimulationIsTheOwners(t *testing.T) {
	in := owners()
	in.Simulation = &simRoot
	theirs := inputs()
	theirs.Simulation = &simRoot
	same, err := Render(theirs)
	if err != nil {
		t.Fatal(err)
	}
	other := ident.Sum([]byte("the operator's own root"))
	theirs.Simulation = &other
	foreign, err := Render(theirs)
	if err != nil {
		t.Fatal(err)
	}

	if err := Refuse(review(t, string(same), in).Differences); err != nil {
		t.Errorf("the root that the owner trusts: %v", err)
	}
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"for hardware":         {operators(t), []string{"security"}},
		"another root":         {string(foreign), []string{"security.attestation.tolerate[0]", simRoot.String(), other.String(), "you trusted another simulated root"}},
		"of before the digest": {operators(t) + "security: {attestation: {tolerate: [debug-mode, simulation]}}\n", []string{"security.attestation.tolerate[0]", `"debug-mode"`, "take the template of `cupel template --simulation`"}},
	} {
		r := review(t, c.text, in)
		if !strings.Contains(string(r.Text), "tolerate: [\"simulation:"+simRoot.String()+"\"]") {
			t.Errorf("%s: what would be uploaded does not tolerate the owner's root:\n%s", name, r.Text)
		}
		err := Refuse(r.Differences)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %q", name, err, w)
			}
		}
	}
}

// sameTree compares kinds and values.
func sameTree(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || a.Value != b.Value || len(a.Content) != len(b.Content) {
		return false
	}
	for i := range a.Content {
		if !sameTree(a.Content[i], b.Content[i]) {
			return false
		}
	}
	return true
}

func FuzzReview(f *testing.F) {
	in := inputs()
	clean, err := Render(in)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(clean)
	f.Add([]byte("name: $SESSION\nservices: [{name: pull_repo, attestation: [" + strings.Repeat("a", 64) + "]}]\n"))
	accepts, err := AcceptValues(known, nil)
	if err != nil {
		f.Fatal(err)
	}
	in.Measurements = nil
	want, err := session.Tree(clean)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Review(text, in, accepts)
		if err != nil || len(r.Differences) > 0 {
			return
		}
		got, err := session.Tree(r.Text)
		if err != nil || !sameTree(got, want) {
			t.Fatalf("accepted, and uploads something else (%v):\n%s", err, r.Text)
		}
	})
}
