package template

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/session"
	"github.com/google/go-cmp/cmp"
)

var updateGolden = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateGolden {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", path, d)
	}
}

var (
	pullM = ident.Measurement(ident.Sum([]byte("the puller")))
	appM  = ident.Measurement(ident.Sum([]byte("the python runtime")))
	evilM = ident.Measurement(ident.Sum([]byte("the operator's own")))

	simRoot = ident.Sum([]byte("the simulated root that the owner trusts"))
)

const command = "python3 /home/client-app/repo/client-app.py"

func inputs() Inputs {
	return Inputs{
		Runtime: "python", Command: command,
		Measurements: map[ident.ServiceName]ident.Measurement{PullService: pullM, AppService: appM},
	}
}

func operators(t *testing.T) string {
	t.Helper()
	text, err := Render(inputs())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTemplate(t *testing.T) {
	golden(t, "template.yml", []byte(operators(t)))
	in := inputs()
	in.Simulation, in.Ref, in.Volume, in.DNS = &simRoot, "v1.2", "store", []string{"shop.example", "*.shop.example", "10.0.0.1"}
	in.Command = `python3 -u "/home/client-app/repo/a b.py" --price $5 $HOME`
	text, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "template-all.yml", text)
	names, err := session.Variables(text)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{VarSession, VarToken, VarRepo, VarCA}, names); d != "" {
		t.Error(d)
	}
	s, err := session.ParseFilled(text, func(n string) (secret.Value, bool) { return secret.NewString("x-" + n), true })
	if err != nil {
		t.Fatal(err)
	}
	app, _ := s.Service(AppService)
	if got := app.Command[len(app.Command)-1].String(); got != "$HOME" {
		t.Errorf("the last argument became %q", got)
	}
	if got, _ := s.Secret("access_token"); string(got.Value.Reveal()) != "x-ACCESS_TOKEN" {
		t.Error("the token does not reach its secret")
	}
	if len(s.Warnings) > 0 {
		t.Errorf("warnings: %q", s.Warnings)
	}
}

func TestTemplateRefusesInputs(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Inputs)
		says   string
	}{
		"no command":     {func(in *Inputs) { in.Command = " " }, "no command"},
		"open quote":     {func(in *Inputs) { in.Command = "a 'b" }, "quote"},
		"runtime":        {func(in *Inputs) { in.Runtime = "Python\nname: x" }, "runtime"},
		"ref":            {func(in *Inputs) { in.Ref = "--upload-pack=x" }, "ref"},
		"dns":            {func(in *Inputs) { in.DNS = []string{"a b"} }, "dns"},
		"volume":         {func(in *Inputs) { in.Volume = "a/b" }, "volume"},
		"no measurement": {func(in *Inputs) { delete(in.Measurements, PullService) }, "no measurement for the service pull_repo"},
		"reference":      {func(in *Inputs) { in.Command = "a $$SCONE::nothing$$" }, "names no secret"},
	} {
		t.Run(name, func(t *testing.T) {
			in := inputs()
			c.change(&in)
			text, err := Render(in)
			if err == nil || problem.KindOf(err) != problem.Invalid || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %s\n%s", err, c.says, text)
			}
		})
	}
}

// TestOnRenewal: how the app takes a renewed certificate is the owner's word, and
// stands where it is said alone.
func TestOnRenewal(t *testing.T) {
	in := Inputs{
		Runtime:      "python",
		Command:      "python3 app.py",
		Measurements: map[ident.ServiceName]ident.Measurement{PullService: {1}, AppService: {2}},
	}
	plain, err := Render(in)
	if err != nil || strings.Contains(string(plain), "cupel:") {
		t.Errorf("%v\n%s", err, plain)
	}
	for _, word := range []string{"none", "SIGHUP"} {
		in.OnRenewal = word
		if text, err := Render(in); err != nil || !strings.Contains(string(text), "on_renewal: "+word) {
			t.Errorf("%s: %v\n%s", word, err, text)
		}
	}
	for _, word := range []string{"HUP", "hup", "sighup"} {
		in.OnRenewal = word
		if text, err := Render(in); err != nil || !strings.Contains(string(text), "on_renewal: SIGHUP") {
			t.Errorf("%s: %v\n%s", word, err, text)
		}
	}
	for _, word := range []string{"SIGKILL", "nope", "none\n  x: y"} {
		in.OnRenewal = word
		if _, err := Render(in); err == nil {
			t.Errorf("%q: accepted", word)
		}
	}
}

// TestCommitIsPinnedAsGitWritesIt: the puller calls a commit pinned where the session
// names its id, which git writes in small letters. Names stay as they are.
func TestCommitIsPinnedAsGitWritesIt(t *testing.T) {
	for ref, want := range map[string]string{
		strings.Repeat("AB", 20): strings.Repeat("ab", 20), strings.Repeat("Ab", 32): strings.Repeat("ab", 32), "ABCDEF": "ABCDEF",
	} {
		in := inputs()
		in.Ref = ref
		text, err := Render(in)
		if err != nil || !strings.Contains(string(text), "CUPEL_PULL_REF: "+session.Quote(want)+"\n") {
			t.Errorf("%s: %v\n%s", ref, err, text)
		}
	}
}

// TestDNS: what can be a name in a certificate is taken, and what can't is refused by what is
// wrong with it.
func TestDNS(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string]string{
		"localhost": "", "shop.example": "", "*.shop.example": "", "10.0.0.1": "", "2001:db8::1": "", "_srv.x_y.example": "", "xn--mnchen-3ya.example": "", "a.b": "", "1": "IP addresses do", long + ".example": "",
		strings.Repeat(long+".", 3) + strings.Repeat("a", 61): "",
		"": "empty", "münchen.example": "alphabets", "https://a.example": "a scheme", "a.example:443": "a port", "10.0.0.1:443": "a port",
		"[2001:db8::1]": "brackets", "a.example/x": "has a /", "a.example,b.example": "several names", "a example": "several names",
		"a.example.": "dot", ".example": "dot", "a..example": "dot", "-a.example": "with -", "a-.example": "with -", "*": "a * that", "a.*.example": "a * that", "*a.example": "a * that",
		"a!b.example": "has a character", "a@b.example": "character", "$SESSION": "character", "a\x01.example": "character", long + "a.example": "63 characters",
		strings.Repeat(long+".", 3) + strings.Repeat("a", 62): "253 characters",
	} {
		in := inputs()
		in.DNS = []string{name}
		_, err := Render(in)
		if p := problem.From(err); (err == nil) != (want == "") || err != nil && (!strings.HasPrefix(p.Actual, "--dns is ") || !strings.Contains(p.Actual, want) || p.Mend == "") {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
}

func TestVolumeAndDNSAreQuoted(t *testing.T) {
	for want, change := range map[string]func(*Inputs){
		`--volume is "a/b"`:                  func(in *Inputs) { in.Volume = "a/b" },
		`--dns is "münchen.example"`:         func(in *Inputs) { in.DNS = []string{"münchen.example"} },
		`--dns is "https://app.example.org"`: func(in *Inputs) { in.DNS = []string{"https://app.example.org"} },
		`--dns is "example.org.": it ends`:   func(in *Inputs) { in.DNS = []string{"example.org."} },
		`--dns is "999.1.1.1": it ends`:      func(in *Inputs) { in.DNS = []string{"999.1.1.1"} },
		`--dns is "fe80::1%eth0": it has`:    func(in *Inputs) { in.DNS = []string{"fe80::1%eth0"} },
	} {
		in := Inputs{Runtime: "python", Command: "python3 a.py"}
		change(&in)
		if _, err := Render(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
}

// TestValuesArriveAsTheyAre: what the owner gives for a variable of the app's is what the
// app sees, through the template, the filled session and its parsing again.
func TestValuesArriveAsTheyAre(t *testing.T) {
	in := inputs()
	in.Env, in.Secrets = []string{"WORDS"}, []string{"KEY"}
	template, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for c := rune(1); c < 0x180; c++ {
		values = append(values, string(c), "a"+string(c)+"b", string(c)+string(c)+string(c), string(c)+" x "+string(c))
	}
	values = append(values, "", "$", "$$", "$$$", "$${", "${", "${WORDS}", "$ACCESS_TOKEN", `\$`, `\\$HOME`, "$$SCON", "$$scone::a$$", "$SCONE::a$$",
		"a: b", "- a", "# a", "a #b", "|\n a", "'", "''", `"`, "~", "null", "true", "0x10", "1e3", "---", "...", "{a: b}", "[a]", "&a", "*a", "!a", "%a", "@a", "`a`",
		"a\r\nb", "\n\n", " a ", "\u2028", "\u2029", "\ufeff", "\ufffe", "\uffff", "😀 é e\u0301 \u202e \u00a0", strings.Repeat("$", 1000))
	for _, value := range values {
		given := func(name string) (secret.Value, bool) {
			if name == EnvPrefix+"WORDS" || name == SecretPrefix+"KEY" {
				return secret.NewString(value), true
			}
			return secret.NewString("x"), true
		}
		if err := session.CheckValue("it", secret.NewString(value)); err != nil {
			t.Errorf("%q: %v", value, err)
		}
		text, err := session.Fill(template, given)
		if err != nil {
			t.Errorf("%q: %v", value, err)
			continue
		}
		s, err := session.Parse(text)
		if err != nil {
			t.Errorf("%q: %v", value, err)
			continue
		}
		app, _ := s.Service(AppService)
		for _, name := range []string{"WORDS", "KEY"} {
			i := slices.IndexFunc(app.Environment, func(v session.EnvVar) bool { return v.Name == name })
			got, err := app.Environment[i].Value.Expand(func(r session.Ref) (secret.Value, error) {
				held, _ := s.Secret(ident.SecretName(r.Secret))
				return held.Value, nil
			})
			if err != nil || string(got.Reveal()) != value {
				t.Errorf("%s: %q, want %q (%v)", name, got.Reveal(), value, err)
			}
		}
	}
	for _, value := range []string{"$$SCONE", "$$SCONE::KEY$$", "a$$$SCONE", "a\x00b", "\xff"} {
		err := session.CheckValue("the value of --env WORDS", secret.NewString(value))
		if p := problem.From(err); p == nil || p.Kind != problem.Invalid || p.Mend == "" || !strings.Contains(p.Actual, "--env WORDS") {
			t.Errorf("%q: %v", value, err)
		}
	}
}
