package session

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
)

const (
	refIntro   = "$$SCONE"
	refOpen    = "$$SCONE::"
	refClose   = "$$"
	escapeJSON = "escape(json)"
)

var (
	secretName = regexp.MustCompile(`^[A-Za-z0-9_.~-]{1,128}$`)
	formatName = regexp.MustCompile(`^[a-z0-9]+([:-][a-z0-9]+)*$`)
)

// parseText splits s into literals and references. It knows no secrets: whether
// a reference leads somewhere is checked by resolve.
func parseText(s string) (Text, error) {
	var t Text
	for s != "" {
		i := strings.Index(s, refIntro)
		if i < 0 {
			return append(t, Part{Literal: s}), nil
		}

		if i > 0 {
			t = append(t, Part{Literal: s[:i]})
		}

		s = s[i:]
		if !strings.HasPrefix(s, refOpen) {
			return nil, fmt.Errorf("a text with $$SCONE that is no reference: want $$SCONE::NAME$$")
		}

		body, rest, ok := strings.Cut(s[len(refOpen):], refClose)
		if !ok {
			return nil, fmt.Errorf("a reference $$SCONE::NAME has no closing $$")
		}

		ref, err := parseRef(body)
		if err != nil {
			return nil, err
		}

		t = append(t, Part{Ref: ref})
		s = rest
	}

	return t, nil
}

func parseRef(body string) (*Ref, error) {
	if strings.HasPrefix(body, "self::") {
		return nil, fmt.Errorf("$$SCONE::self::…$$ is known to the SCONE language, but not supported yet")
	}

	body, encoding, encoded := strings.Cut(body, "|")
	name, format, formatted := strings.Cut(body, ":")

	switch {
	case !secretName.MatchString(name):
		return nil, fmt.Errorf("a reference $$SCONE::NAME$$ with a name of %d characters: want 1 to 128 of A-Z a-z 0-9 _ . ~ -", utf8.RuneCountInString(name))
	case formatted && !formatName.MatchString(format):
		return nil, fmt.Errorf("a reference $$SCONE::NAME:FORMAT$$ with a format that is none: want small letters, digits, : and -")
	case encoded && encoding != escapeJSON:
		return nil, fmt.Errorf("a reference $$SCONE::NAME|ENCODING$$ with another encoding than %s", escapeJSON)
	}

	return &Ref{name, format, encoding}, nil
}

// String writes the reference as it stands in a session.
func (r Ref) String() string {
	s := refOpen + r.Secret
	if r.Format != "" {
		s += ":" + r.Format
	}

	if r.Encoding != "" {
		s += "|" + r.Encoding
	}

	return s + refClose
}

// String writes the text as it stands in a session, references unresolved.
func (t Text) String() string {
	var b strings.Builder
	for _, p := range t {
		if p.Ref != nil {
			b.WriteString(p.Ref.String())
		} else {
			b.WriteString(p.Literal)
		}
	}

	return b.String()
}

// Refs returns the references in the order in which they stand.
func (t Text) Refs() []Ref {
	var refs []Ref
	for _, p := range t {
		if p.Ref != nil {
			refs = append(refs, *p.Ref)
		}
	}

	return refs
}

// Expand puts the secrets in. The callback returns a secret in the reference's
// Format; Expand itself applies the Encoding. What comes back is never looked
// through for further references.
func (t Text) Expand(get func(Ref) (secret.Value, error)) (secret.Value, error) {
	var out []byte
	for _, p := range t {
		if p.Ref == nil {
			out = append(out, p.Literal...)
			continue
		}

		v, err := get(*p.Ref)
		if err != nil {
			return secret.Value{}, fmt.Errorf("expand %s: %w", p.Ref, err)
		}

		b := v.Reveal()
		if p.Ref.Encoding == escapeJSON {
			if b, err = jsonEscape(b); err != nil {
				return secret.Value{}, fmt.Errorf("expand %s: %w", p.Ref, err)
			}
		}

		out = append(out, b...)
	}

	return secret.New(out), nil
}

// jsonEscape escapes as within a JSON string, without the quotes around it.
func jsonEscape(b []byte) ([]byte, error) {
	quoted, err := json.Marshal(string(b))
	if err != nil {
		return nil, fmt.Errorf("escape for JSON: %w", err)
	}
	return quoted[1 : len(quoted)-1], nil
}

// formats lists, for each kind, the formats in which a secret can be had, and
// their full spelling.
var formats = map[Kind]map[string]string{
	ASCII:  {"": "text"},
	Binary: {"": "bin", "bin": "bin", "hex": "hex", "base64": "base64", "base64url": "base64url", "base32": "base32", "base32nopad": "base32nopad"},
	PrivateKey: {"": "pkcs8:pem", "pem": "pkcs8:pem", "pkcs8:pem": "pkcs8:pem",
		"der": "pkcs8:der", "pkcs8:der": "pkcs8:der"},
	X509:   certificateFormats,
	X509CA: certificateFormats,
}

var certificateFormats = map[string]string{
	"": "crt:pem", "crt": "crt:pem", "crt:pem": "crt:pem", "crt:der": "crt:der", "chain": "chain",
	"privatekey": "privatekey:pkcs8:pem", "privatekey:pem": "privatekey:pkcs8:pem", "privatekey:pkcs8:pem": "privatekey:pkcs8:pem",
	"privatekey:der": "privatekey:pkcs8:der", "privatekey:pkcs8:der": "privatekey:pkcs8:der",
}

// CanonicalFormat returns the full spelling of a format that a reference to a
// secret of this kind may ask for: "text", "bin", "hex", "base64", "base64url",
// "base32", "base32nopad", "pkcs8:pem", "pkcs8:der", "crt:pem", "crt:der",
// "chain" (from the first intermediate up to the root, PEM),
// "privatekey:pkcs8:pem", "privatekey:pkcs8:der".
func CanonicalFormat(k Kind, format string) (string, bool) {
	f, ok := formats[k][format]
	return f, ok
}

// everyFormat lists the formats of all kinds.
func everyFormat() (all []string) {
	for _, of := range formats {
		all = slices.AppendSeq(all, maps.Keys(of))
	}

	return all
}

func rawFormat(canonical string) bool {
	return canonical == "bin" || strings.HasSuffix(canonical, "der")
}

// legacyFormats are the suffixes with a dot, of servers before SCONE 5.2.
var legacyFormats = map[string]string{"hex": "hex", "crt": "crt", "key": "privatekey", "chain": "chain"}

// resolve checks one reference against the secrets and turns the old form
// NAME.SUFFIX into the new one. inline says that the place holds no raw bytes.
func resolve(ref *Ref, kinds map[string]Kind, inline bool) *problem.Error {
	kind, ok := kinds[ref.Secret]

	if i := strings.LastIndexByte(ref.Secret, '.'); !ok && i > 0 && ref.Format == "" {
		if format, old := legacyFormats[ref.Secret[i+1:]]; old && kinds[ref.Secret[:i]] != "" {
			if format == "chain" {
				return problem.New(problem.Invalid, ruleUnsupported,
					"%s: the old suffix .chain (root first, certificate last) is known to the SCONE language, but not supported yet", ref).
					Fix("write :chain, or :crt for a certificate alone")
			}

			ref.Secret = ref.Secret[:i]
			ref.Format = format
			kind, ok = kinds[ref.Secret]
		}
	}

	if !ok {
		return problem.New(problem.Invalid, ruleReference, "the reference names no secret of this session: %s", shown(ref.Secret, slices.Collect(maps.Keys(kinds)))).
			Fix("define it under `secrets:`")
	}

	format, ok := CanonicalFormat(kind, ref.Format)
	switch {
	case !ok:
		if slices.Contains(laterValues["format"], ref.Format) {
			return problem.New(problem.Invalid, ruleUnsupported, "%s: the format is known to the SCONE language, but not supported yet", ref)
		}

		known := slices.Sorted(maps.Keys(formats[kind]))
		return problem.New(problem.Invalid, ruleReference, "the secret %s of kind %s has no such format: %s", ref.Secret, kind, shown(ref.Format, everyFormat())).
			Want("no format%s", strings.Join(known, " :"))
	case rawFormat(format) && (inline || ref.Encoding != ""):
		return problem.New(problem.Invalid, ruleReference, "%s: raw bytes fit neither arguments, environment nor JSON", ref).
			Fix("write :hex, :base64 or :pem, or use an injection file")
	}

	return nil
}
