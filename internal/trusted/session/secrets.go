package session

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cupel.dev/cupel/internal/trusted/secret"
	"go.yaml.in/yaml/v4"
)

const defaultSize = 20

// keysOfKind are the keys that fit a kind, beside name, kind and export_public.
var keysOfKind = map[Kind][]string{
	ASCII:      {"value", "size"},
	Binary:     {"value", "size"},
	PrivateKey: {"value", "key_type"},
	X509CA:     {"private_key", "common_name", "valid_for"},
	X509:       {"private_key", "issuer", "common_name", "dns", "endpoint", "valid_for"},
}

func (r *reader) secrets(f fields) {
	nodes := r.list(f, "secrets")
	read := make([]fields, 0, len(nodes))
	for _, n := range nodes {
		s := r.mapping(n, &sectionSecret)
		read = append(read, s)
		r.secret(s)
	}

	if r.err != nil {
		return
	}

	for i, s := range read {
		r.certificateRefs(s, &r.session.Secrets[i])
	}
}

func (r *reader) secret(f fields) {
	out := Secret{Name: r.required(f, "name", "secret")}

	if out.Name != "" && !secretName.MatchString(out.Name) {
		r.refuse(f.at("name"), ruleField, "the secret name is %s", shown(out.Name, nil)).Want("1 to 128 of A-Z a-z 0-9 _ . ~ -")
	}

	if r.kinds[out.Name] != "" {
		r.refuse(f.at("name"), ruleField, "a second secret called %q", out.Name).Fix("rename or remove one of the two")
	}

	if r.required(f, "kind", "secret") == "" {
		return
	}

	out.Kind = Kind(r.word(f, "kind", "", string(ASCII), string(Binary), string(PrivateKey), string(X509CA), string(X509)))
	r.kinds[out.Name] = out.Kind

	for _, key := range sectionSecret.keys {
		switch fits := slices.Contains(keysOfKind[out.Kind], key); {
		case fits, !f.has(key), key == "name", key == "kind", key == "export_public", keysOfKind[out.Kind] == nil:
		case key == "value" && (out.Kind == X509 || out.Kind == X509CA):
			r.refuse(f.at(key), ruleUnsupported, "a certificate given as value is known to the SCONE language, but not supported yet").
				Fix("let the CAS issue it, or give it as a secret of kind ascii")
		case key == "issuer" && out.Kind == X509CA:
			r.refuse(f.at(key), ruleUnsupported, "an x509-ca with an issuer is known to the SCONE language, but not supported yet")
		default:
			r.refuse(f.at(key), ruleField, "%s does not fit a secret of kind %s", key, out.Kind).
				Want("of the optional keys: %s, export_public", strings.Join(keysOfKind[out.Kind], ", "))
		}
	}

	out.ExportPublic = r.boolean(f, "export_public")
	r.secretValue(f, &out)
	r.certificate(f, &out)

	r.session.Secrets = append(r.session.Secrets, out)
}

// secretValue reads what is given or says how it is generated. No refusal here
// may quote the value.
func (r *reader) secretValue(f fields, out *Secret) {
	if out.Kind == PrivateKey {
		out.KeyType = r.word(f, "key_type", "", "P-256", "P-384", "Ed25519")
	}

	if !f.has("value") {
		switch out.Kind {
		case ASCII, Binary:
			out.Size = defaultSize
			if n := f.values["size"]; n != nil {
				out.Size = r.number(n, "size", 1, 65536)
			}
		case PrivateKey:
			if out.KeyType == "" {
				out.KeyType = "P-256"
			}
		}
		return
	}

	n := f.values["value"]
	v := r.text(f, "value")
	out.HasValue = true

	switch out.Kind {
	case ASCII:
		out.Value = secret.NewString(v)
	case Binary:
		b, err := hex.DecodeString(v)
		if err != nil {
			refuseValue(r, n, "the value of the binary secret %s is not hex", out.Name)
		}
		out.Value = secret.New(b)
	case PrivateKey:
		keyType, err := privateKeyType(v)
		if err != nil {
			refuseValue(r, n, "the value of the private key %s: %v", out.Name, err)
		} else if out.KeyType != "" && out.KeyType != keyType {
			r.refuse(f.at("key_type"), ruleField, "key_type is %s, the value a key of type %s", out.KeyType, keyType)
		}
		out.KeyType = keyType
		out.Value = secret.NewString(v)
	}

	if s := f.values["size"]; s != nil && r.number(s, "size", 1, 65536) != out.Value.Len() {
		r.refuse(s, ruleField, "size is not the size of the given value").Fix("remove size")
	}
}

// refuseValue is refuse without the node's text in reach.
func refuseValue(r *reader, n *yaml.Node, format string, args ...any) {
	r.refuse(&yaml.Node{Line: n.Line, Column: n.Column}, ruleField, format, args...)
}

func privateKeyType(v string) (string, error) {
	block, rest := pem.Decode([]byte(v))
	if block == nil || block.Type != "PRIVATE KEY" || strings.TrimSpace(string(rest)) != "" {
		return "", fmt.Errorf("not one PEM block PRIVATE KEY (PKCS#8)")
	}

	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("not a PKCS#8 key")
	}

	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return k.Curve.Params().Name, nil
		}
	case ed25519.PrivateKey:
		return "Ed25519", nil
	}

	return "", fmt.Errorf("a key type other than P-256, P-384 and Ed25519")
}

func (r *reader) certificate(f fields, out *Secret) {
	if out.Kind != X509 && out.Kind != X509CA {
		return
	}

	out.PrivateKey = r.text(f, "private_key")
	out.Issuer = r.text(f, "issuer")
	out.CommonName = r.text(f, "common_name")
	out.ValidFor = r.text(f, "valid_for")

	if f.has("endpoint") {
		out.Endpoint = r.word(f, "endpoint", "", "server", "client")
	}

	if out.ValidFor != "" {
		d, err := ParseValidity(out.ValidFor)
		if err != nil {
			r.refuse(f.at("valid_for"), ruleField, "valid_for: %v", err)
		} else if d < shortValidity {
			r.warn(f.at("valid_for"), "valid_for of less than a minute: an instance hears only with its reports, every 10 seconds and more, that a certificate is due, so that it may end before")
		}
	}

	if len(out.CommonName) > 64 {
		r.refuse(f.at("common_name"), ruleField, "common_name has %d bytes", len(out.CommonName)).Want("at most 64")
	}

	for _, n := range r.elements(f, "dns") {
		name := r.scalar(n, "dns")
		if wrong := WrongHost(name); wrong != nil && wrong.Kept {
			r.warn(n, "dns "+wrong.Why+": no client accepts a certificate for that")
		} else if wrong != nil {
			r.refuse(n, ruleField, "dns is %s and %s", shown(name, nil), wrong.Why).Want("a DNS name or an IP address").Fix("%s", wrong.Mend)
		}

		out.DNS = append(out.DNS, name)
	}

	if out.Endpoint == "client" && len(out.DNS) > 0 {
		r.refuse(f.at("dns"), ruleField, "dns names in a client's certificate").Fix("remove dns or the endpoint")
	}
}

// certificateRefs checks what a certificate stands on, when all secrets are known.
func (r *reader) certificateRefs(f fields, s *Secret) {
	if s.Kind != X509 && s.Kind != X509CA {
		return
	}

	r.refersTo(f, "private_key", s.PrivateKey, PrivateKey)
	r.refersTo(f, "issuer", s.Issuer, X509CA)

	switch {
	case s.PrivateKey != "":
	case s.Kind == X509CA:
		r.refuse(f.node, ruleField, "the x509-ca %s has no private_key", s.Name).
			Fix("add `private_key:` with the name of a secret of kind private-key")
	case s.Issuer == "":
		r.refuse(f.node, ruleField, "the certificate %s has neither private_key nor issuer", s.Name).
			Want("an issuer that vouches for the key that each instance gets").Fix("add `issuer:`")
	case s.ExportPublic:
		r.refuse(f.node, ruleField, "the certificate %s has no private_key, so that each instance gets its own, and export_public", s.Name).
			Fix("export the issuer instead")
	}
}

func (r *reader) refersTo(f fields, key, name string, want Kind) {
	if name == "" {
		if f.has(key) {
			r.refuse(f.at(key), ruleReference, "%s is empty", key)
		}
		return
	}

	if kind := r.kinds[name]; kind != want {
		r.refuse(f.at(key), ruleReference, "%s is %s", key, shown(name, slices.Collect(maps.Keys(r.kinds)))).Want("the name of a secret of kind %s", want)
	}
}

// shortValidity is below what an instance can renew in time.
const shortValidity = time.Minute

var validity = regexp.MustCompile(`^([1-9][0-9]{0,9}) *([a-z]+)$`)

// ParseValidity reads valid_for: a number and a unit, like "60 days", "24h",
// "1 year" (365 days).
func ParseValidity(s string) (time.Duration, error) {
	m := validity.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("no duration: want one like 60 days")
	}

	const day = 24 * time.Hour
	var unit time.Duration
	switch strings.TrimSuffix(m[2], "s") {
	case "", "sec", "second": // "" is "s" itself
		unit = time.Second
	case "m", "min", "minute":
		unit = time.Minute
	case "h", "hour":
		unit = time.Hour
	case "d", "day":
		unit = day
	case "w", "week":
		unit = 7 * day
	case "y", "year":
		unit = 365 * day
	default:
		return 0, fmt.Errorf("no unit behind the number: want seconds, minutes, hours, days, weeks or years")
	}

	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n > math.MaxInt64/int64(unit) || time.Duration(n)*unit > 100*365*day {
		return 0, fmt.Errorf("too long: want at most 100 years")
	}

	return time.Duration(n) * unit, nil
}
