package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

// TestStateOfAnInstance: a person sees what an instance is at, where it is at
// something in particular.
func TestStateOfAnInstance(t *testing.T) {
	g := &globals{now: time.Now}
	for want, i := range map[string]manager.Instance{
		"mounting":   {State: "starting", Phase: "mounting"},
		"running":    {State: "running", Phase: "running"},
		"stopping":   {State: "stopping", Phase: "running"},
		"committing": {State: "stopping", Phase: "committing"},
		"exited":     {State: "exited", Phase: "committing"},
	} {
		if got := g.instanceRow(i)[2]; got != want {
			t.Errorf("%+v is shown as %q, want %q", i, got, want)
		}
	}
}

// onTerminal is what a terminal of so many columns is given.
func onTerminal(t *testing.T, columns uint16, do func(tty *os.File)) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = master.Close() }()
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	said := make(chan string)
	go func() {
		all, _ := io.ReadAll(master) // it ends with EIO when the last of its users closes it
		said <- strings.ReplaceAll(string(all), "\r\n", "\n")
	}()
	do(tty)
	if err := tty.Close(); err != nil {
		t.Fatal(err)
	}
	return <-said
}

// TestTroubleOnATerminal: what is said below the table goes on in further lines of a narrow
// terminal, and what others say in it begins none of them by itself.
func TestTroubleOnATerminal(t *testing.T) {
	why := problem.New(problem.Unavailable, "unhealthy", "the app listens on 127.0.0.1:8080, not on all addresses, so that nobody reaches it\nVERIFIED\x1b[2J").
		Want("an app that listens on all addresses").Fix("let it listen on 0.0.0.0:8080, then deploy again: cupel deploy my-shop-app --instances 3")
	got := onTerminal(t, 80, func(tty *os.File) {
		g := &globals{out: tty, output: "table", now: time.Now, env: func(string) string { return "" }}
		g.printTrouble("my-shop-app/i-3f9k2m1y", why)
	})
	const want = `
my-shop-app/i-3f9k2m1y: unhealthy: the app listens on 127.0.0.1:8080, not on
    all addresses, so that nobody reaches it\nVERIFIED\x1b[2J
  expected: an app that listens on all addresses
  mend: let it listen on 0.0.0.0:8080, then deploy again: cupel deploy
    my-shop-app --instances 3
`
	if got != want {
		t.Errorf("a terminal of 80 columns is given:\n%s\n%q", got, got)
	}
}

// TestTableFitsATerminal: what people look at most fits into 80 columns.
func TestTableFitsATerminal(t *testing.T) {
	var out bytes.Buffer
	g := &globals{out: &out, output: "table", now: time.Now, env: func(string) string { return "" }}
	why := problem.New(problem.Unavailable, "unhealthy", "the app listens on 127.0.0.1:8080, not on all addresses").Fix("let it listen")
	app := manager.App{ID: "a", Name: "my-shop-app"}
	list := []manager.Instance{
		{ID: "i-3f9k2m1x", App: app.Name, AppID: "a", Role: "app", State: "running", Health: "healthy", Restarts: 12, Memory: 256 << 20, MemoryUsed: 23<<20 + 1<<19, Port: 18082, Attested: true, Simulated: true, CreatedAt: time.Now()},
		{ID: "i-3f9k2m1y", App: app.Name, AppID: "a", Role: "app", State: "running", Health: "unhealthy", Memory: 1536 << 20, MemoryUsed: 5 << 20, Port: 18082, Attested: true, CreatedAt: time.Now(), Problem: why},
		{ID: "i-3f9k2m1z", App: app.Name, AppID: "a", Role: "app", State: "waiting", Memory: 256 << 20, NextStart: time.Now().Add(time.Minute), Problem: why},
	}
	if err := g.printInstances(psReply{Apps: []manager.App{app}, Instances: list}); err != nil {
		t.Fatal(err)
	}
	table, below, _ := strings.Cut(out.String(), "\n\n")
	for line := range strings.Lines(table) {
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.Contains(table, "23M/256M") || strings.Contains(table, "\x1b") {
		t.Error(table)
	}
	if want := "my-shop-app/i-3f9k2m1y and 1 other: unhealthy: the app listens on 127.0.0.1:8080, not on all addresses\n  mend: let it listen\n"; below != want {
		t.Errorf("below the table: %q", below)
	}
}

// TestFailureIsToldOnce: what an instance has says as much as why its deployment gave up.
func TestFailureIsToldOnce(t *testing.T) {
	why := problem.New(problem.Unavailable, "unhealthy", "the app listens on no port yet")
	gaveUp := *why
	gaveUp.Actual = "gave up after 2 minutes: the app listens on no port yet"
	app := manager.App{ID: "a", Deployment: manager.Deployment{State: manager.DeploymentFailed, Problem: &gaveUp}}
	if p := failedDeployment(app, []manager.Instance{{AppID: "a", State: "stopping", Problem: why}}); p != nil {
		t.Error(p)
	}
	if p := failedDeployment(app, nil); p != &gaveUp {
		t.Error(p)
	}
}

// TestNarrowTablesKeepValues: on a narrow terminal text goes on in the next line, and what
// people copy stays whole.
func TestNarrowTablesKeepValues(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	text := "a sentence that is so long that it fits into no line of a terminal beside others"
	for name, c := range map[string]struct {
		cell, want string // of two columns, on 80 places
	}{
		"a digest":          {id, id},
		"a digest in words": {"identity " + id, "identity\n" + id},
		"a commit, then":    {"commit " + id[:40] + ", pinned by the session", "commit " + id[:40] + ", pinned by the\nsession"},
		"a name":            {strings.Repeat("name-", 20), strings.Repeat("name-", 20)},
		"an address":        {"[fe80::1]:18765", "[fe80::1]:18765"},
		"a text":            {text, text[:66] + "\n" + text[67:]},
	} {
		widths := columns([][]string{{"PART", "WHERE"}, {"certificate", c.cell}}, 80)
		got := ""
		for _, line := range rowLines([]string{"certificate", c.cell}, widths) {
			got += "\n" + line[1]
		}
		if got = got[1:]; got != c.want || widths[0] != len("certificate") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestTableLines: what goes on in the next line stands below its column's beginning.
func TestTableLines(t *testing.T) {
	widths := []int{8, 12, 6}
	want := [][]string{{"3f9c01d2", "ended (given", "client"}, {"", "back)", "1 of 1"}}
	if got := rowLines([]string{"3f9c01d2", "ended (given back)", "client 1 of 1"}, widths); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%q", got)
	}
}

// TestNoTextIsWrappedInVain: where lines are too long in spite of it, nothing is wrapped.
func TestNoTextIsWrappedInVain(t *testing.T) {
	label, id := "operator's key", "identity "+strings.Repeat("0123456789abcdef", 5)
	if widths := columns([][]string{{"PART", "WHERE"}, {label, id}}, 80); len(rowLines([]string{label, id}, widths)) != 1 {
		t.Errorf("%v", widths)
	}
}

// TestWideTables: columns that a terminal has no room for stand below their row, whole.
func TestWideTables(t *testing.T) {
	digest := strings.Repeat("0123456789abcdef", 4)
	header := []string{"LAST", "COUNT", "SERVICE", "RULE", "ACTUAL", "EXPECTED"}
	row := []string{"2026-11-27 18:00:00", "3", "client-app", "measurement", digest, digest + ", or " + digest}
	g := &globals{output: "table"}
	plainly := func(int, string) ink { return plainInk }

	want := "LAST                 COUNT  SERVICE     RULE\n" +
		"2026-11-27 18:00:00  3      client-app  measurement\n" +
		"    actual " + digest + ";\n" +
		"    expected " + digest + ",\n" +
		"    or " + digest + "\n"
	if got := g.tableText([][]string{header, row}, 80, plainly); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := g.tableText([][]string{header, row}, math.MaxInt, plainly); strings.Count(got, "\n") != 2 {
		t.Errorf("elsewhere lines have no end:\n%s", got)
	}

	verified := [][]string{
		{"INSTANCE", "SERVICE", "STATE", "ATTESTED", "MEASUREMENT", "PLATFORM", "STATUS", "DEBUG", "GRANT", "SESSION", "HAS"},
		{"022f57d468b5", "pull_repo", "exited", "2026-11-27T18:31:02Z", "7d5027234417", "SIMULATED", "UpToDate", "on", "ce262b32", "758ff0ae665c", "repo 3 (5f2c1e0b9a7d)"},
	}
	for line := range strings.Lines(g.tableText(verified, 80, plainly)) {
		if len(line) > 81 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

// TestOtherCodeIsExplained: what the CAS says of other code than the session's is shown
// with what it expected, and a mend that fits.
func TestOtherCodeIsExplained(t *testing.T) {
	dir := t.TempDir()
	d, err := home.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = d.UpdateSessions(t.Context(), func(all home.Sessions) error { all["shop"] = home.SessionRecord{Runtime: "python"}; return nil })
	if err != nil {
		t.Fatal(err)
	}
	refused := problem.New(problem.Denied, "measurement", "measurement: 12ab").Want("34cd").Fix("add its measurement to the expectation")
	a := manager.App{
		ID: "app-1", Name: "shop", Session: "shop", Runtime: "node", State: manager.AppFailed,
		Deployment: manager.Deployment{Revision: 2, State: manager.DeploymentFailed, Problem: refused},
	}
	var out bytes.Buffer
	g := &globals{out: &out, output: "table", now: time.Now, config: dir, named: true}
	if err := g.printInstances(psReply{Apps: []manager.App{a}}); err != nil {
		t.Fatal(err)
	}
	_, below, _ := strings.Cut(out.String(), "\n\n")
	if !strings.HasPrefix(below, "shop: deployment of revision 2 failed: measurement: 12ab\n  expected: 34cd\n  mend: session shop was created for the runtime python, and this was deployed on node: deploy again, 'cupel deploy shop --runtime python'; or make") || strings.Contains(below, "leave") {
		t.Errorf("%s", below)
	}
}

// TestColors: there are some where somebody asks for them, and none where somebody
// objects, or in what programs read.
func TestColors(t *testing.T) {
	for _, c := range []struct {
		env    map[string]string
		output string
		want   bool
	}{
		{map[string]string{}, "table", false}, // no terminal
		{map[string]string{"CLICOLOR_FORCE": "1"}, "table", true},
		{map[string]string{"CLICOLOR_FORCE": "0"}, "table", false},
		{map[string]string{"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, "table", false},
		{map[string]string{"CLICOLOR_FORCE": "1"}, "json", false},
	} {
		g := &globals{out: &bytes.Buffer{}, output: c.output, env: func(name string) string { return c.env[name] }}
		got := g.paint(g.out, red, "no")
		if colored := got == "\x1b[31mno\x1b[0m"; colored != c.want || !c.want && got != "no" {
			t.Errorf("%v, %s: %q", c.env, c.output, got)
		}
	}
}

// TestFailedDeploymentsBelowTheTable: an app without instances says why its deployment
// failed; what an instance says already is not said twice.
func TestFailedDeploymentsBelowTheTable(t *testing.T) {
	token := problem.New(problem.Denied, "git_credentials", "git_credentials: the server refused the token").Fix("submit another")
	exited := problem.New(problem.Unavailable, "exited", "the app exited with code 1").Fix("see its output")
	failed := func(id string, why *problem.Error) manager.App {
		return manager.App{ID: id, Name: "app-" + id, State: manager.AppFailed, Deployment: manager.Deployment{Revision: 3, State: manager.DeploymentFailed, Problem: why}}
	}
	under := failed("c", token)
	under.Deployment.State = manager.DeploymentRunning
	r := psReply{
		Apps:      []manager.App{failed("a", token), failed("b", exited), under},
		Instances: []manager.Instance{{ID: "i-1", App: "app-b", AppID: "b", Role: "app", State: "exited", Problem: exited}},
	}

	var out bytes.Buffer
	g := &globals{out: &out, output: "table", now: time.Now, env: func(string) string { return "" }}
	if err := g.printInstances(r); err != nil {
		t.Fatal(err)
	}
	_, below, _ := strings.Cut(out.String(), "\n\n")
	want := "app-a: deployment of revision 3 failed: git_credentials: the server refused the token\n  mend: submit another\n" +
		"\napp-b/i-1: exited: the app exited with code 1\n  mend: see its output\n"
	if below != want {
		t.Errorf("below the table: %q", below)
	}
}
