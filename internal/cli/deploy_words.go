package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/wording"
)

// lastWords is how much of a failed instance's output is shown.
const lastWords = 10

// patient waits a moment for a manager that is away, and says so once.
func (d *deployment) patient(ctx context.Context) bool {
	if !d.away {
		d.away = true
		d.show.clear()
		d.g.warnf("The manager at %s does not answer: waiting for it; the deployment goes on without it.", d.at.Address)
	}
	return pause(ctx, time.Second) == nil
}

// pullerSays is the puller's last word while it pulls; empty if there is none.
func (d *deployment) pullerSays(ctx context.Context) string {
	if d.show.current() != manager.StepPull {
		return ""
	}

	last := ""
	for _, line := range d.output(ctx, d.pulling, manager.RolePull, 1) {
		last = line
	}

	if last == "" {
		return ""
	}
	return "the puller's last word: " + last
}

// explain shows the last words of what made a deployment fail by p: they name the cause
// more closely than its exit code.
func (d *deployment) explain(ctx context.Context, app manager.App, p *problem.Error) {
	if p == nil {
		return
	}

	quote := wording.Quote
	if d.g.json() { // there the line is a value by itself
		quote = ""
	}

	if problem.OfPull(p.Rule) {
		for _, line := range d.output(ctx, app, manager.RolePull, 2*lastWords) {
			if strings.HasPrefix(line, "pull: ") {
				d.g.warnf(quote+"%s", line)
			}
		}
		return
	}

	lines := d.output(ctx, app, manager.RoleApp, lastWords)
	if len(lines) == 0 {
		return
	}

	if d.g.json() {
		_ = d.g.printLine(stepLine{Step: d.show.current(), State: "log", Log: lines})
		return
	}

	d.show.clear()
	d.g.printf("  … the app's last words:\n")
	for _, line := range lines {
		d.g.printf(wording.Quote+"%s\n", line)
	}
}

// output returns the last lines of the deployment's newest instance in a role, of its
// run before where the newest hasn't said a word.
func (d *deployment) output(ctx context.Context, app manager.App, role string, most int) []string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list, err := d.manager.Instances(ctx, ident.AppRef(app.ID))
	if err != nil {
		return nil
	}

	for _, i := range slices.Backward(list) {
		if i.Role != role || i.Revision != app.Deployment.Revision {
			continue
		}

		for _, previous := range []bool{false, true} {
			var lines []string
			_ = d.manager.Logs(ctx, ident.InstanceRef(i.ID), client.LogOptions{Tail: most, Previous: previous}, func(l manager.LogLine) error {
				lines = append(lines, d.g.shortened(l.Line))
				return nil
			})

			if len(lines) > 0 {
				return lines
			}
		}
	}

	return nil
}

// longestWord is how much of one line is shown beside a failure.
const longestWord = 1000

// shortened cuts a line that nobody would read to its end, and says so.
func (g *globals) shortened(line string) string {
	if len(line) <= longestWord {
		return line
	}
	return strings.ToValidUTF8(line[:longestWord], "") + g.inState("… (shortened: 'cupel logs' has all of it)")
}
