package template

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/internal/trusted/session"
	"go.yaml.in/yaml/v4"
)

const absent = "nothing"

// differ walks two trees and collects where they part.
type differ struct {
	in     Inputs
	marker string // stands before the names of open variables
	found  []Difference
}

func (d *differ) compareTexts(want, got []byte) {
	a, err := session.Tree(want)
	b, err2 := session.Tree(got)
	if err != nil || err2 != nil {
		d.found = append(d.found, Difference{
			Path:     "(file)",
			Expected: "a session that can be read",
			Actual:   fmt.Sprint(err, err2),
			Mend:     "do not use this file",
		})
		return
	}
	d.compare("", a, b)
}

func (d *differ) compare(path string, want, got *yaml.Node) {
	switch {
	case want == nil && got == nil:
	case want == nil || got == nil || want.Kind != got.Kind:
		d.differ(path, want, got)
	case want.Kind == yaml.ScalarNode:
		if want.Value != got.Value || (want.Tag == "!!null") != (got.Tag == "!!null") {
			d.differ(path, want, got)
		}
	default:
		d.compareMembers(path, members(want), members(got))
	}
}

// entry is a value of a mapping or list, under the name by which its like is
// found in the other tree.
type entry struct {
	label string
	node  *yaml.Node
}

func members(n *yaml.Node) []entry {
	var out []entry
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			out = append(out, entry{"." + printable(n.Content[i].Value), n.Content[i+1]})
		}
		return out
	}

	seen := map[string]int{}
	for i, c := range n.Content {
		label := strconv.Itoa(i)
		for _, key := range []string{"path", "name"} {
			if k := child(c, key); k != nil && k.Kind == yaml.ScalarNode {
				label = entryLabel(k.Value)
			}
		}

		if seen[label]++; seen[label] > 1 {
			label += "#" + strconv.Itoa(seen[label])
		}
		out = append(out, entry{"[" + label + "]", c})
	}

	return out
}

func (d *differ) compareMembers(path string, want, got []entry) {
	theirs := make(map[string]*yaml.Node, len(got))
	for _, e := range got {
		theirs[e.label] = e.node
	}

	ours := make(map[string]bool, len(want))
	for _, e := range want {
		ours[e.label] = true
		d.compare(path+e.label, e.node, theirs[e.label])
	}

	for _, e := range got {
		if !ours[e.label] {
			d.compare(path+e.label, nil, e.node)
		}
	}
}

func (d *differ) differ(path string, want, got *yaml.Node) {
	// nil on one side and an empty list on the other say the same.
	if empty(want) && empty(got) {
		return
	}

	diff := Difference{
		Path:     d.show(strings.TrimPrefix(path, ".")),
		Expected: d.expected(path, want),
		Actual:   d.render(path, got),
		Mend:     "your inputs do not make this line: do not use this file",
	}

	if want != nil && want.Value == nobody.String() {
		diff.Expected = "a measurement that you vouch for"
	}

	d.advise(&diff)
	if name, ok := d.variable(want); ok {
		leaveOpen(&diff, name)
	}

	d.found = append(d.found, diff)
}

// leaveOpen tells who filled a template in by hand where the value goes instead.
func leaveOpen(diff *Difference, name string) {
	give := fmt.Sprintf("-e %s=VALUE", name)
	switch name {
	case VarSession:
		give = "--name NAME"
	case VarUser:
		give = "--git-user NAME"
	case VarProxy:
		give = "--proxy ADDRESS"
	case VarToken:
		give = fmt.Sprintf("-e %s=@FILE, or with -e %s alone, which asks for it", name, name)
	}

	if v, ok := strings.CutPrefix(name, EnvPrefix); ok {
		give = fmt.Sprintf("--env %s=VALUE", v)
	}

	if v, ok := strings.CutPrefix(name, SecretPrefix); ok {
		give = fmt.Sprintf("--secret %s=@FILE", v)
	}

	diff.Mend = fmt.Sprintf("leave `$%s` there, and give the value with %s", name, give)
}

// variable returns the name of the open variable that n stands for as a whole.
func (d *differ) variable(n *yaml.Node) (string, bool) {
	if n == nil || n.Kind != yaml.ScalarNode {
		return "", false
	}

	name, ok := strings.CutPrefix(d.show(n.Value), "$")
	return name, ok && openVariable.MatchString("$"+name)
}

func empty(n *yaml.Node) bool {
	return n == nil || n.Kind != yaml.ScalarNode && len(n.Content) == 0
}

// advise says which flag of the owner's would make the same line, where one
// would.
func (d *differ) advise(diff *Difference) {
	app := "services[" + string(AppService) + "]"
	pull := "services[" + string(PullService) + "]"

	p := diff.Path
	switch {
	case strings.HasPrefix(p, app+".attestation") || strings.HasPrefix(p, pull+".attestation"):
		diff.Mend = "each service is run by one measurement; do not use this file"
	case strings.HasPrefix(p, app+".command"), strings.HasPrefix(p, pull+".environment.CUPEL_PULL_EXPECT"):
		diff.Mend = "the command is yours to give"
		diff.Flag = "--command COMMAND"
	case strings.HasPrefix(p, pull+".environment.CUPEL_PULL_REF"):
		diff.Mend = "the ref is yours to give"
		diff.Flag = "--ref REF"
	case strings.HasPrefix(p, app+".environment."):
		adviseVariable(diff, strings.TrimPrefix(p, app+".environment."))
	case strings.HasPrefix(p, "secrets["+secretOf("")):
		diff.Mend = "the app's secrets are yours to give"
		diff.Flag = "--secret NAME"
	case strings.HasPrefix(p, "secrets[git_user]"), p == "images["+string(PullService)+"].injection_files[/run/cupel/pull/user]":
		diff.Mend = "whether a user name goes with the token is yours to say"
		diff.Flag = "--git-user NAME"
	case strings.HasPrefix(p, "secrets[git_proxy]"), p == "images["+string(PullService)+"].injection_files[/run/cupel/pull/proxy]":
		diff.Mend = "whether a proxy leads to the git server is yours to say"
		diff.Flag = "--proxy ADDRESS"
	case strings.HasPrefix(p, "secrets[app_cert].dns"):
		diff.Mend = "the certificate's names are yours to give"
		diff.Flag = "--dns NAME"
	case strings.HasPrefix(p, "volumes[") && !strings.Contains(p, "].") && diff.Expected == absent && !d.renamedVolume():
		diff.Mend = "a template has one volume: do not use this file. A session of your own, with more, is uploaded without one: docs/cas.md, With curl"
	case strings.HasPrefix(p, "volumes[") && !strings.Contains(p, "]."):
		diff.Mend = "the volume is yours to name"
		diff.Flag = "--volume NAME"
	case strings.HasPrefix(p, "security.attestation.tolerate"):
		d.adviseTolerance(diff)
	}
}

// renamedVolume reports whether the file lacks the volume of the template, as one does
// that calls it otherwise.
func (d *differ) renamedVolume() bool {
	return slices.ContainsFunc(d.found, func(f Difference) bool { return strings.HasPrefix(f.Path, "volumes[") && f.Actual == absent })
}

// adviseVariable names the flag of a variable of the app's, where one makes that
// line: whatever else stands in a file is not the owner's.
func adviseVariable(diff *Difference, name string) {
	for flag, value := range map[string]string{
		"--env " + name:    "$" + EnvPrefix + name,
		"--secret " + name: "$$SCONE::" + secretOf(name) + "$$",
	} {
		quoted := strconv.Quote(value)
		if diff.Actual == quoted && CheckVariable(name) == nil || diff.Expected == quoted && diff.Actual == absent {
			diff.Mend = "the app's variables are yours to give"
			diff.Flag = flag
		}
	}
}

// adviseTolerance tells what is wrong with an entry of tolerate: one that no
// input of the owner's makes, another simulated root than the owner trusted, or
// the words with which templates once tolerated any.
func (d *differ) adviseTolerance(diff *Difference) {
	t := evidence.Tolerance(strings.Trim(diff.Actual, `"`))
	_, names := t.SimulationRoot()

	switch {
	case d.in.Simulation == nil && (names || t == evidence.Simulation || t == evidence.DebugMode):
		diff.Mend = "real platforms need no tolerance; a simulated one keeps no secret from its host"
		diff.Flag = "--simulation, for trying out"
	case d.in.Simulation != nil && names:
		diff.Mend = "you trusted another simulated root when you attested the CAS: do not use this file; take the template of `cupel template --simulation`"
	case d.in.Simulation != nil:
		diff.Mend = "take the template of `cupel template --simulation`: it tolerates the one simulated root that you trusted"
	}
}

// expected is what the owner's inputs make. A command may have a password among
// its words, and whoever gave it knows it: it is not repeated.
func (d *differ) expected(path string, n *yaml.Node) string {
	switch keys := keysOf(path); {
	case n == nil:
		return absent
	case strings.HasPrefix(path, ".services["+string(AppService)+"].command"):
		return "what your --command makes"
	case keys == "services.environment.CUPEL_PULL_EXPECT":
		return "what your --command makes"
	case keys == "services.environment.CUPEL_PULL_REF":
		return "what your --ref makes"
	case n.Kind == yaml.ScalarNode:
		return strconv.Quote(d.show(n.Value))
	}
	return "what your inputs make there"
}

func (d *differ) render(path string, n *yaml.Node) string {
	if n == nil {
		return absent
	}

	s := d.flow(path, n, 0)
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}

	return s
}

// show turns markers back into the variables that they stand for.
func (d *differ) show(s string) string { return strings.ReplaceAll(s, d.marker, "$") }

// printable quotes what would do anything to a terminal but show.
func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}

// flow writes a tree on one line, for people: keys, and the values that may be
// shown.
func (d *differ) flow(path string, n *yaml.Node, depth int) string {
	if depth > 8 {
		return "…"
	}

	var parts []string
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := printable(n.Content[i].Value)
			parts = append(parts, key+": "+d.flow(path+"."+key, n.Content[i+1], depth+1))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case yaml.SequenceNode:
		for i, c := range n.Content {
			parts = append(parts, d.flow(fmt.Sprintf("%s[%d]", path, i), c, depth+1))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}

	return showable(keysOf(path), d.show(n.Value))
}
