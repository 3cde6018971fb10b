package session

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"go.yaml.in/yaml/v4"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
)

func (r *reader) services(f fields) {
	seen := map[string]bool{}
	for _, n := range r.list(f, "services") {
		s := r.mapping(n, &sectionService)

		var svc Service
		if name := r.required(s, "name", "service"); name != "" {
			var err error
			if svc.Name, err = ident.ParseServiceName(name); err != nil {
				r.refuse(s.at("name"), ruleField, "%v", err)
			}
			r.once(seen, s.at("name"), "service", name)
		}

		svc.ImageName = r.text(s, "image_name")
		if _, ok := r.session.Image(ident.ImageName(svc.ImageName)); !ok && svc.ImageName != "" {
			r.warn(s.at("image_name"), "image_name matches no image: the service gets neither volumes nor files")
		}

		svc.Attestation = r.attestation(s)
		svc.Command = r.command(s)
		svc.Environment = r.environment(s)

		if s.has("pwd") {
			if svc.Pwd = r.required(s, "pwd", "service"); svc.Pwd != "" {
				r.checkPath(s.at("pwd"), "pwd", svc.Pwd)
			}
		}

		r.serviceCupel(s, &svc)
		r.session.Services = append(r.session.Services, svc)
	}
}

// attestation reads the code identities of a service; the old `mrenclaves: […]`
// means `attestation: {mrenclave: […]}`.
func (r *reader) attestation(s fields) []evidence.CodeIdentity {
	var out []evidence.CodeIdentity
	n := s.values["attestation"]
	switch {
	case s.has("mrenclaves") && s.has("attestation"):
		r.refuse(s.at("mrenclaves"), ruleField, "both mrenclaves and attestation").
			Fix("move the digests into `attestation: {mrenclave: […]}`")
	case s.has("mrenclaves"):
		if m := r.measurements(s, "mrenclaves"); len(m) > 0 {
			out = []evidence.CodeIdentity{{Measurements: m}}
		}
	case n == nil || isNull(n):
	case n.Kind == yaml.SequenceNode:
		for _, v := range n.Content {
			out = append(out, r.variant(v))
		}
	default:
		out = []evidence.CodeIdentity{r.variant(n)}
	}

	if len(out) == 0 && r.session.Security.Mode != "none" {
		r.refuse(s.node, ruleField, "a service without attestation").
			Fix("add `attestation: - mrenclave: [DIGEST]`")
	}

	return out
}

func (r *reader) variant(n *yaml.Node) evidence.CodeIdentity {
	f := r.mapping(n, &sectionAttestation)
	id := evidence.CodeIdentity{Measurements: r.measurements(f, "mrenclave")}

	if f.has("mrenclave") && len(id.Measurements) == 0 {
		r.refuse(f.at("mrenclave"), ruleField, "mrenclave is empty").Fix("name a digest or remove the line")
	}

	if s := f.values["signer"]; s != nil {
		id.Signer = r.signer(s)
	}

	if len(id.Measurements) == 0 && id.Signer == nil {
		r.refuse(n, ruleField, "an attestation variant without mrenclave and signer")
	}

	return id
}

func (r *reader) measurements(f fields, key string) []ident.Measurement {
	var out []ident.Measurement
	for _, n := range r.elements(f, key) {
		m := r.measurement(n, key)
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}

	return out
}

func (r *reader) measurement(n *yaml.Node, key string) ident.Measurement {
	m, err := ident.ParseMeasurement(r.scalar(n, key))
	if err != nil {
		r.refuse(n, ruleField, "%s: %v", key, err)
	}
	return m
}

func (r *reader) signer(n *yaml.Node) *evidence.Signer {
	f := r.mapping(n, &sectionSigner)

	out := &evidence.Signer{}

	if !f.has("mrsigner") || !f.has("isvprodid") {
		r.refuse(n, ruleField, "a signer without mrsigner and isvprodid").Fix("give both")
		return out
	}

	out.MRSigner = r.measurement(f.values["mrsigner"], "mrsigner")
	out.ProductID = uint16(r.number(f.values["isvprodid"], "isvprodid", 0, 65535))

	for _, bound := range []struct {
		key string
		to  **uint16
	}{{"isvsvn", &out.SVN}, {"isvsvn_min", &out.SVNMin}, {"isvsvn_max", &out.SVNMax}} {
		if v := f.values[bound.key]; v != nil {
			svn := uint16(r.number(v, bound.key, 0, 65535))
			*bound.to = &svn
		}
	}

	switch {
	case out.SVN != nil && (out.SVNMin != nil || out.SVNMax != nil):
		r.refuse(n, ruleField, "isvsvn beside isvsvn_min or isvsvn_max").Want("the one or the others")
	case out.SVNMin != nil && out.SVNMax != nil && *out.SVNMin > *out.SVNMax:
		r.refuse(n, ruleField, "isvsvn_min is above isvsvn_max")
	}

	return out
}

func (r *reader) command(s fields) []Text {
	n := s.values["command"]
	var words []*yaml.Node
	switch {
	case n == nil || isNull(n):
		return nil
	case n.Kind == yaml.SequenceNode:
		words = n.Content
	default:
		split, err := SplitCommand(r.scalar(n, "command"))
		if err != nil {
			r.refuse(n, ruleField, "command: %v", err)
		}
		for _, w := range split {
			words = append(words, &yaml.Node{
				Kind:   yaml.ScalarNode,
				Tag:    "!!str",
				Value:  w,
				Line:   n.Line,
				Column: n.Column,
			})
		}
	}

	var argv []Text
	for _, w := range words {
		v := r.scalar(w, "an argument of command")
		r.hostArgument(w, v)
		argv = append(argv, r.reference(w, v, true))
	}

	if len(argv) == 0 || len(argv[0]) == 0 {
		r.refuse(n, ruleField, "command is empty").Fix("name a program, or remove the line to run the image's own")
	}

	return argv
}

func (r *reader) hostArgument(n *yaml.Node, v string) {
	_, after, ok := strings.Cut(v, "@@")
	if ok && after != "" && after[0] >= '0' && after[0] <= '9' {
		r.refuse(n, ruleUnsupported, "the host argument @@%c is known to the SCONE language, but not supported yet", after[0]).
			Fix("write the argument out: the host is trusted by nobody")
	}
}

// SplitCommand splits at white space; single or double quotes keep it. A
// backslash stands for itself.
func SplitCommand(s string) ([]string, error) {
	words, _, err := splitCommand(s)
	return words, err
}

// splitCommand returns the words, and of each what stands outside of quotes.
func splitCommand(s string) (words, unquoted []string, err error) {
	var word, bare strings.Builder
	inWord := false
	quote := rune(0)
	end := func() {
		words = append(words, word.String())
		unquoted = append(unquoted, bare.String())
		inWord = false
		word.Reset()
		bare.Reset()
	}
	for _, c := range s {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
			inWord = true
		case quote == 0 && strings.ContainsRune(" \t\r\n", c):
			if inWord {
				end()
			}
		default:
			word.WriteRune(c)
			if quote == 0 {
				bare.WriteRune(c)
			}
			inWord = true
		}
	}

	if quote != 0 {
		return nil, nil, fmt.Errorf("the quote %c is not closed", quote)
	}

	if inWord {
		end()
	}

	return words, unquoted, nil
}

func (r *reader) environment(s fields) []EnvVar {
	n := s.values["environment"]
	if n == nil || isNull(n) {
		return nil
	}

	if n.Kind != yaml.MappingNode {
		r.refuse(n, ruleField, "environment is no mapping").Want("NAME: VALUE")
		return nil
	}

	var out []EnvVar
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]

		switch {
		case strings.HasPrefix(key.Value, `\@\@`) || strings.HasPrefix(key.Value, "@@"):
			r.refuse(key, ruleUnsupported, "a variable that the host fills in is known to the SCONE language, but not supported yet").
				Fix("write the value out: the host is trusted by nobody")
		case key.Value == "" || strings.Contains(key.Value, "="):
			r.refuse(key, ruleField, "a variable's name that is empty or holds =").Want("one without = that is not empty")
		}

		out = append(out, EnvVar{key.Value, r.reference(value, r.scalar(value, fmt.Sprintf("the variable %q", clip(key.Value))), true)})
	}

	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
