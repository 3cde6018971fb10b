package cli

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/wording"
)

// Steps of a deployment that are this command's own, after those of the manager.
const (
	stepVerify = "verify" // have the CAS confirm what the manager says
	stepAnswer = "answer" // look at what answers at the app's address
)

// stepTitles say what happens in each step of a deployment.
var stepTitles = map[string]string{
	manager.StepImages: "bring the images",
	manager.StepPull:   "pull the repository, inside",
	manager.StepStop:   "stop the old instance first",
	manager.StepStart:  "start instances",
	manager.StepAttest: "attest instances",
	manager.StepHealth: "wait until healthy",
	manager.StepSwitch: "lead the port to them",
	manager.StepDrain:  "stop the old instances",
	stepVerify:         "ask the CAS",
	stepAnswer:         "look at what answers",
}

// stepWaits say what a step that takes its time waits for, where that is known beforehand.
var stepWaits = map[string]string{
	manager.StepDrain: "waits until users' connections to them have ended, at most the operator's drain time (cupel up --drain)",
}

// progress shows steps as they go: one line that changes on a terminal, one
// line for each that ended elsewhere, or JSON lines.
type progress struct {
	g       *globals
	live    bool // a line that changes
	steps   []manager.Step
	printed int    // steps whose end was shown
	waiting string // what was shown last as waited for
	drawn   bool   // an unfinished line is on the terminal
	gap     bool   // that nothing serves was said

	beatOf string    // the step that goes on
	beaten time.Time // when that was said last, or the step was first seen
	hint   func() string
}

// beatEvery is how often it is said that a step goes on, where no line changes.
const beatEvery = 10 * time.Second

func (g *globals) progress() progress { return progress{g: g, live: g.watched() && !g.json()} }

// stepLine is one line of `deploy -o json`.
type stepLine struct {
	Step    string         `json:"step"`
	Seconds float64        `json:"seconds"`
	State   string         `json:"state"` // done, failed, running (it goes on), waiting, log
	Problem *problem.Error `json:"problem,omitempty"`
	Log     []string       `json:"log,omitempty"` // the last lines of what failed
}

// update shows what is new since the last call.
func (p *progress) update(d manager.Deployment, now time.Time) {
	p.steps = d.Steps
	p.flush()
	p.sayGap(d)

	if d.Waiting != nil && d.Waiting.Actual != p.waiting {
		p.waiting = d.Waiting.Actual
		p.sayWaiting(d.Waiting)
	}

	p.draw(now)
	p.beat(now)
}

// sayWaiting tells what a deployment waits for, or tries again after.
func (p *progress) sayWaiting(why *problem.Error) {
	if p.g.json() {
		_ = p.g.printLine(stepLine{Step: p.current(), State: "waiting", Problem: why})
		return
	}

	p.clear()
	goesOn := cmp.Or(waitsFor[why.Rule], "trying again")
	if why.Rule == problem.RuleUnhealthy { // it runs, and nothing is started anew for now
		goesOn = "waiting for it"
	}
	p.g.printf("  "+p.g.paint(p.g.out, yellow, "…")+" %s; %s\n", wording.Reason(why), goesOn)
	if why.Mend != "" && waitsFor[why.Rule] == "" {
		p.g.printf("    mend: %s\n", p.g.inState(why.Mend))
	}
}

// waitsFor says what is waited for where nothing has failed.
var waitsFor = map[problem.Rule]string{
	problem.RuleGrantFull: "waiting for a place, which is free when one of them has ended or lapsed",
	problem.RuleLeaseHeld: "waiting until it ends, or lapses after three missed reports",
}

// sayGap tells when nothing serves any more: the one step that users notice.
func (p *progress) sayGap(d manager.Deployment) {
	stopping := slices.ContainsFunc(d.Steps, func(s manager.Step) bool { return s.Name == manager.StepStop })
	if !stopping || p.gap || p.g.json() {
		return
	}

	p.gap = true
	p.clear()
	p.g.printf("  "+p.g.paint(p.g.out, yellow, "…")+" nothing serves from now until revision %d does: the app writes a volume, which has one writer\n", d.Revision)
}

// beat says now and then that a step goes on, and what it is at, as far as is known.
func (p *progress) beat(now time.Time) {
	if p.printed >= len(p.steps) {
		return
	}

	s := p.steps[p.printed]
	if s.Name != p.beatOf {
		p.beatOf, p.beaten = s.Name, now
	}

	if now.Sub(p.beaten) < beatEvery {
		return
	}

	p.beaten = now
	hint := stepWaits[s.Name]
	if p.hint != nil {
		hint = cmp.Or(p.hint(), hint)
	}

	took := between(s.StartedAt, now)
	switch {
	case p.g.json():
		_ = p.g.printLine(stepLine{Step: s.Name, Seconds: took.Seconds(), State: "running"})
	case !p.live:
		p.g.printf("  · %-28s %8s  %s\n", title(s), tookCell(took, time.Second), cmp.Or(hint, "goes on"))
	case hint != "":
		p.clear()
		p.g.printf("  … %s\n", hint)
		p.draw(now)
	}
}

func (p *progress) begin(name string, now time.Time) {
	p.steps = append(p.steps, manager.Step{Name: name, StartedAt: now})
	p.draw(now)
}

func (p *progress) finish(name string, now time.Time) {
	for i := range p.steps {
		if p.steps[i].Name == name {
			p.steps[i].EndedAt = now
		}
	}

	p.flush()
}

// end shows the step in which it stopped, if it did.
func (p *progress) end(err error) {
	p.clear()
	if err == nil || p.printed >= len(p.steps) {
		return
	}

	s := p.steps[p.printed]
	took := between(s.StartedAt, p.g.now())
	if p.g.json() {
		_ = p.g.printLine(stepLine{Step: s.Name, Seconds: took.Seconds(), State: "failed"})
		return
	}
	p.g.printf("  "+p.g.paint(p.g.out, red, "✗")+" %-28s %8s\n", title(s), tookCell(took, 10*time.Millisecond))
}

// flush prints the steps that ended, in order.
func (p *progress) flush() {
	for p.printed < len(p.steps) && !p.steps[p.printed].EndedAt.IsZero() {
		s := p.steps[p.printed]
		p.printed++
		took := between(s.StartedAt, s.EndedAt)

		if p.g.json() {
			_ = p.g.printLine(stepLine{Step: s.Name, Seconds: took.Seconds(), State: "done"})
			continue
		}

		p.clear()
		p.g.printf("  "+p.g.paint(p.g.out, green, "✓")+" %-28s %8s\n", title(s), tookCell(took, 10*time.Millisecond))
	}
}

// longestStep is more than a step takes: a longer one is a time that the manager didn't say.
const longestStep = 30 * 24 * time.Hour

// between is how long a step took by the manager's times; 0: they don't say.
func between(started, ended time.Time) time.Duration {
	if took := ended.Sub(started); took > 0 && took < longestStep {
		return took
	}
	return 0
}

func tookCell(took, unit time.Duration) string {
	if took == 0 {
		return "-"
	}
	return took.Round(unit).String()
}

func (p *progress) current() string {
	if p.printed < len(p.steps) {
		return p.steps[p.printed].Name
	}
	return ""
}

func (p *progress) draw(now time.Time) {
	if !p.live || p.printed >= len(p.steps) {
		return
	}

	s := p.steps[p.printed]
	p.clear()
	p.g.printf("  · %-28s %8s", title(s), tookCell(between(s.StartedAt, now), 100*time.Millisecond))
	p.drawn = true
}

func (p *progress) clear() {
	if p.drawn {
		p.g.printf("\r\x1b[K")
		p.drawn = false
	}
}

func title(s manager.Step) string {
	t := cmp.Or(stepTitles[s.Name], s.Name)
	if s.Of > 1 {
		t += fmt.Sprintf(" (%d/%d)", s.Done, s.Of)
	}
	return t
}
