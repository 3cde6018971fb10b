package template

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/reference"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/session"
)

// Difference is one place in which an operator's template is not what the
// owner's inputs make, or which nobody vouches for.
type Difference struct {
	Path     string `json:"path"` // like services[client-app].command
	Expected string `json:"expected"`
	Actual   string `json:"actual"`
	Mend     string `json:"mend"`
	Flag     string `json:"flag,omitempty"` // accepts it, if the owner really means it
}

func (d Difference) String() string {
	s := fmt.Sprintf("%s: expected %s, the file has %s; %s", d.Path, d.Expected, d.Actual, d.Mend)

	if d.Flag != "" {
		s += " (or accept it with " + d.Flag + ")"
	}

	return s
}

// Refuse turns differences into one refusal that names them all; nil where
// there are none.
func Refuse(diffs []Difference) error {
	if len(diffs) == 0 {
		return nil
	}

	p := problem.New(problem.Denied, ruleTemplateDiffers, "%d differences from the template that your inputs make: %s", len(diffs), diffs[0]).
		Fix("nothing was sent; take the template of `cupel template` with the same inputs, or ask the operator why theirs differs")
	if len(diffs) == 1 {
		p.Actual = "one difference from the template that your inputs make: " + diffs[0].String()
	}

	for _, d := range diffs {
		p.Msg = append(p.Msg, d.String())
	}
	if len(diffs) > 1 {
		p.Actual = fmt.Sprintf("%d differences from the template that your inputs make:\n%s", len(diffs), strings.Join(p.Msg, "\n"))
	}

	return p
}

// Accepts says whether the owner accepts a measurement in a service that runs
// this runtime: nil if so, and otherwise what is wrong with it.
type Accepts func(service ident.ServiceName, runtime string, m ident.Measurement) *Difference

// Reviewed is an operator's template after the owner's side looked at it.
type Reviewed struct {
	// Text is the template made here from the owner's inputs. It, not what came
	// from the operator, is to be filled and uploaded; only if there are no
	// Differences.
	Text         []byte
	Measurements map[ident.ServiceName]ident.Measurement
	Differences  []Difference
}

// Review judges a template from the operator. All it takes out of it are
// measurements, where in has none of its own, and those only if vouched for.
func Review(fromOperator []byte, in Inputs, accepts Accepts) (*Reviewed, error) {
	root, err := session.Tree(fromOperator)
	if err != nil {
		return nil, fmt.Errorf("the operator's template: %w", err)
	}

	out := &Reviewed{Measurements: map[ident.ServiceName]ident.Measurement{}}

	for _, service := range []ident.ServiceName{PullService, AppService} {
		m := in.Measurements[service]
		found := true
		if m.IsZero() {
			if m, found = proposed(root, service); found {
				if d := accepts(service, in.RuntimeOf(service), m); d != nil {
					out.Differences = append(out.Differences, *d)
				}
			}
		}

		if !found {
			m = nobody
		}
		out.Measurements[service] = m
	}

	in.Measurements = out.Measurements

	diffs, err := Compare(fromOperator, in)
	if err != nil {
		return nil, err
	}

	out.Differences = append(out.Differences, diffs...)

	out.Text, err = Render(in)
	return out, err
}

// nobody stands for a measurement that the operator's template does not give.
var nobody = ident.Measurement(ident.Sum([]byte("cupel: no measurement")))

func unvouched(service ident.ServiceName, runtime string, m ident.Measurement) *Difference {
	return &Difference{
		Path:     fmt.Sprintf("services[%s].attestation", service),
		Expected: fmt.Sprintf("a measurement of the runtime %s that you vouch for", runtime),
		Actual:   m.String(),
		Mend:     fmt.Sprintf("rebuild it with `cupel runtime measure %s --lock FILE` and compare", runtime),
		Flag:     fmt.Sprintf("--accept-measurement %s=%s", service, m),
	}
}

// superseded is a measurement that the owner vouched for, before that of newer
// packages.
func superseded(service ident.ServiceName, old, newest reference.Value) *Difference {
	return &Difference{
		Path: fmt.Sprintf("services[%s].attestation", service),
		Expected: fmt.Sprintf("%s, the newest measurement of the runtime %s that you vouch for (packages as of %s)",
			newest.Measurement, newest.Runtime, newest.IndexDate.UTC().Format(time.DateOnly)),
		Actual: fmt.Sprintf("%s, that you vouched for on %s (packages as of %s)",
			old.Measurement, old.At.UTC().Format(time.DateOnly), old.IndexDate.UTC().Format(time.DateOnly)),
		Mend: "take the template of `cupel template`, and have the operator run the newest packages (cupel runtime build " + old.Runtime + ")",
		Flag: fmt.Sprintf("--accept-measurement %s=%s", service, old.Measurement),
	}
}

var hexDigest = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)

// proposed is the first measurement that the tree names for the service. That
// it is the only one, and in the right place, is Compare's to say.
func proposed(root *yaml.Node, service ident.ServiceName) (ident.Measurement, bool) {
	services := child(root, "services")
	if services == nil || services.Kind != yaml.SequenceNode {
		return ident.Measurement{}, false
	}

	for _, s := range services.Content {
		if name := child(s, "name"); name == nil || name.Value != string(service) {
			continue
		}

		for _, key := range []string{"attestation", "mrenclaves"} {
			if m, ok := firstDigest(child(s, key)); ok {
				return m, true
			}
		}
	}

	return ident.Measurement{}, false
}

func firstDigest(n *yaml.Node) (ident.Measurement, bool) {
	if n == nil {
		return ident.Measurement{}, false
	}

	if n.Kind == yaml.ScalarNode && hexDigest.MatchString(n.Value) {
		m, err := ident.ParseMeasurement(n.Value)
		return m, err == nil
	}

	for _, c := range n.Content {
		if m, ok := firstDigest(c); ok {
			return m, true
		}
	}

	return ident.Measurement{}, false
}

// Compare makes the template again from the inputs and names every difference
// of the operator's from it. Canonical forms are compared, so that spelling,
// comments and order mean nothing and defaults are what they are.
func Compare(fromOperator []byte, in Inputs) ([]Difference, error) {
	in, err := in.normal()
	if err != nil {
		return nil, err
	}

	own, err := in.template()
	if err != nil {
		return nil, err
	}

	// Open variables become words that the file can't hold already: they are
	// derived from it.
	digest := ident.Sum(fromOperator)
	marker := "v" + hex.EncodeToString(digest[:8]) + "."
	fill := func(name string) (secret.Value, bool) { return secret.NewString(marker + name), true }

	want, err := session.ParseFilled(own, fill)
	if err != nil {
		return nil, err
	}

	d := &differ{in: in, marker: marker}
	got, err := session.ParseFilled(fromOperator, fill)
	if err == nil {
		d.compareTexts(want.Canonical(), got.Canonical())
		return d.found, nil
	}

	// It is no session that we could read, and so refused anyway: say where, and
	// what else is different as far as the plain text shows it.
	refused, ok := errors.AsType[*problem.Error](err)
	if !ok || refused.Rule == problem.RuleSessionSyntax || refused.Rule == problem.RuleSessionDuplicateKey {
		return nil, fmt.Errorf("the operator's template: %w", err)
	}

	d.found = append(d.found, Difference{
		Path:     "(file)",
		Expected: "a session that can be read",
		Actual:   d.show(refused.Error()),
		Mend:     "do not use this file",
	})
	d.compareTexts(own, fromOperator)
	return d.found, nil
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}

	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}

	return nil
}

// AcceptFlag reads one value of --accept-measurement: HEX, for whichever
// service, or SERVICE=HEX.
func AcceptFlag(s string) (service ident.ServiceName, m ident.Measurement, err error) {
	digest := s
	if name, value, named := strings.Cut(s, "="); named {
		digest = value
		if service, err = ident.ParseServiceName(name); err != nil {
			return "", m, problem.New(problem.Invalid, ruleAcceptMeasurement, "%w", err)
		}
	}

	if m, err = ident.ParseMeasurement(digest); err != nil {
		return "", m, problem.New(problem.Invalid, ruleAcceptMeasurement, "%w", err).Want("HEX or SERVICE=HEX")
	}

	return service, m, nil
}

// AcceptValues accepts, of each runtime, the newest measurement that was vouched
// for, and whatever is named by the given values of --accept-measurement.
func AcceptValues(known []reference.Value, flags []string) (Accepts, error) {
	type accepted struct {
		service ident.ServiceName
		m       ident.Measurement
	}

	var named []accepted
	for _, f := range flags {
		service, m, err := AcceptFlag(f)
		if err != nil {
			return nil, err
		}

		if service != "" && service != PullService && service != AppService {
			return nil, problem.New(problem.Invalid, ruleAcceptMeasurement, "the template has no service %.140q", service).
				Want("%s=HEX or %s=HEX", PullService, AppService)
		}

		named = append(named, accepted{service, m})
	}

	return func(service ident.ServiceName, runtime string, m ident.Measurement) *Difference {
		if slices.Contains(named, accepted{service, m}) || slices.Contains(named, accepted{"", m}) {
			return nil
		}

		i := slices.IndexFunc(known, func(v reference.Value) bool { return v.Measurement == m && v.Runtime == runtime })
		if i < 0 {
			return unvouched(service, runtime, m)
		}

		if newest, _ := reference.Newest(known, runtime); newest.Measurement != m {
			return superseded(service, known[i], newest)
		}

		return nil
	}, nil
}
