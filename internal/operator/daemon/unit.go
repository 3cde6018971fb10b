package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/wording"
)

// A systemd unit has one installation come up with the machine. Its apps are no part
// of the unit: they live on when cupeld is restarted or dies, and are stopped in order,
// with their volumes stored, when the machine goes down.

// defaultState is the folder whose unit has the short name.
const defaultState = "/var/lib/cupel"

// clockPatience is how long the unit waits for a clock that isn't set yet, before it
// begins anew.
const clockPatience = 15 * time.Minute

// unitMark begins each unit that was made here.
const unitMark = "# Made by cupel install-service; cupel uninstall-service removes it.\n"

// unit is the name of the installation's unit.
func (l layout) unit() string {
	if l.dir == defaultState {
		return "cupel.service"
	}
	return "cupel-" + l.id + ".service"
}

// existing is the hidden flag of `up` in the unit of an installation that is there already.
const existing = "--existing"

// unitText is the unit that runs this program with those flags of `up`.
func (l layout) unitText(program string, flags []string) []byte {
	up := l.unitUp(program)
	if l.used() {
		up = append(up, existing)
	}
	up = append(up, flags...)
	down := []string{program, "down", "--state", l.dir, "--at-shutdown"}

	var b bytes.Buffer
	fmt.Fprintf(&b, unitMark+`[Unit]
Description=Cupel on %s
Wants=network-online.target
After=network-online.target nss-lookup.target time-sync.target
RequiresMountsFor=%s %s
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=%s
# Apps stay while the service is restarted, and are stopped in order at shutdown.
ExecStop=%s
KillMode=process
Restart=on-failure
RestartSec=2
# Another cupeld runs on this folder; --deploy-keys is missing here.
RestartPreventExitStatus=%d %d
# It says itself how long it waits: for the clock, for the CAS, for volumes.
TimeoutStartSec=infinity
TimeoutStopSec=%d
LimitNOFILE=1048576
TasksMax=infinity
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
`, unitValue(l.dir), unitWord(l.dir), unitWord(filepath.Dir(program)), unitLine(up), unitLine(down),
		codeRuns, codeKeys, int(unitTimeout.Seconds()))
	return b.Bytes()
}

// unitUp is how the unit runs `up`, before the flags that were given.
func (l layout) unitUp(program string) []string {
	return []string{program, "up", "--state", l.dir, "--wait-clock", clockPatience.String()}
}

// renewed returns a unit of an earlier release as this one makes it, with the flags that
// it has, and its program, or this one where that is gone. Not ok: it holds what no
// release wrote.
func (l layout) renewed(text []byte, self string) (now []byte, flags []string, ok bool) {
	wrote, flags, ok := l.unitRuns(text)
	if !ok {
		return nil, nil, false
	}

	program := wrote
	if _, err := os.Stat(program); err != nil {
		program = self
	}
	now = l.unitText(program, flags)

	known := append(l.unitLines(wrote, flags), "ExecStart="+unitSetting(text, "ExecStart"))
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line != "" && line[0] != '#' && !slices.Contains(known, line) {
			return nil, flags, false
		}
	}
	return now, flags, true
}

// unitRuns returns the program that a unit runs `up` by, and the flags that it has. Not
// ok: no release wrote that.
func (l layout) unitRuns(text []byte) (program string, flags []string, ok bool) {
	words, ok := unitWords(unitSetting(text, "ExecStart"))
	if !ok || len(words) == 0 {
		return "", nil, false
	}

	begin := l.unitUp(words[0])
	if len(words) < len(begin) || !slices.Equal(words[:len(begin)], begin) {
		return "", nil, false
	}
	return words[0], slices.DeleteFunc(words[len(begin):], func(w string) bool { return w == existing }), true
}

// unitKeys says of a unit that its next start is refused, or lets everybody deploy, where
// this start has a list of the keys that may; empty: there is nothing to say.
func (l layout) unitKeys(text []byte, list string) string {
	_, flags, ok := l.unitRuns(text)
	if !ok || !restricts(list) {
		return ""
	}

	has, flags := takeFlag(flags, "--"+deployKeysFlag)
	what := "starts without --deploy-keys, and is refused then (" + string(ruleKeysMissing) + ")"
	switch {
	case restricts(has):
		return ""
	case has == everybody:
		what = "has --deploy-keys " + everybody + ", so that everybody may deploy once it starts"
	}
	return l.unit() + " " + what + ": make it anew with " + l.install(append(flags, "--"+deployKeysFlag, list))
}

// install is the command that makes the unit with those flags of `up`.
func (l layout) install(flags []string) string {
	return "cupel install-service --state " + wording.ShellLine(append([]string{l.dir}, flags...)...)
}

// takeFlag takes a flag, whether its value is a word of its own, from a command line, and
// returns its last value and the rest.
func takeFlag(words []string, flag string) (value string, rest []string) {
	for i := 0; i < len(words); i++ {
		after, joined := strings.CutPrefix(words[i], flag+"=")
		switch {
		case joined:
			value = after
		case words[i] == flag && i+1 < len(words):
			i++
			value = words[i]
		default:
			rest = append(rest, words[i])
		}
	}
	return value, rest
}

// unitLines are the lines that this release and earlier ones wrote into the unit of a
// program.
func (l layout) unitLines(program string, flags []string) []string {
	return append(strings.Split(string(l.unitText(program, flags)), "\n"),
		"RequiresMountsFor="+unitWord(l.dir), "TimeoutStopSec=2040", "RestartPreventExitStatus=10")
}

// unitSetting is the first value that a unit has for a key.
func unitSetting(text []byte, key string) string {
	_, after, _ := strings.Cut(string(text), "\n"+key+"=")
	value, _, _ := strings.Cut(after, "\n")
	return value
}

// unitLine is a command as a setting of a unit.
func unitLine(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = unitWord(a)
		if i > 0 {
			words[i] = strings.ReplaceAll(words[i], "$", "$$") // no variable of the unit's
		}
	}
	return strings.Join(words, " ")
}

// unitWords are the words of which unitLine made a line.
func unitWords(line string) (words []string, ok bool) {
	var word []byte
	quoted, begun := false, false

	end := func() {
		if !begun {
			return
		}
		text := strings.ReplaceAll(string(word), "%%", "%")
		if len(words) > 0 {
			text = strings.ReplaceAll(text, "$$", "$")
		}
		words = append(words, text)
		word = nil
		begun = false
	}

	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quoted && c == '\\' && i+1 < len(line):
			i++
			word = append(word, line[i])
		case c == '"':
			quoted = !quoted
			begun = true
		case c == ' ' && !quoted:
			end()
		default:
			word = append(word, c)
			begun = true
		}
	}

	end()
	return words, !quoted
}

// unitWord quotes a word of a unit (systemd.syntax(7), systemd.service(5)).
func unitWord(s string) string {
	s = unitValue(s)
	if s != "" && !strings.ContainsAny(s, " \t\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// unitValue keeps systemd from replacing what begins with a percent sign.
func unitValue(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// fitsUnit refuses what can't stand in a line.
func fitsUnit(words []string) error {
	for _, w := range words {
		if strings.ContainsFunc(w, unicode.IsControl) {
			return problem.New(problem.Invalid, problem.RuleService, "%.80q has a control character, which a unit can't hold", w).
				Fix("give it without, or rename what it names")
		}
	}
	return nil
}
