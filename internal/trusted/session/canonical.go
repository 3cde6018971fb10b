package session

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/fieldhash"
	"cupel.dev/cupel/internal/trusted/secret"
)

// object and list are what the canonical writer knows beside scalars.
type (
	object []member
	member struct {
		key   string
		value any // string, plain, object, list
	}
	list  []any
	plain string // written as it is: numbers and booleans
)

// Canonical writes the session with all defaults explicit; Parse reads the same
// session back. It holds explicit secret values: it is what is hashed and
// uploaded, not what is printed (see Redacted).
func (s *Session) Canonical() []byte {
	return s.write(func(v secret.Value, k Kind) string {
		if k == Binary {
			return hex.EncodeToString(v.Reveal())
		}
		return string(v.Reveal())
	})
}

// Redacted is Canonical for people: explicit secret values are left out.
func (s *Session) Redacted() []byte {
	return s.write(func(secret.Value, Kind) string { return "[secret]" })
}

// Hash identifies this version of the session, made by this creator: SHA-256
// over a tag, the creator's key hash and the canonical form, length-prefixed.
func (s *Session) Hash(creator ident.KeyHash) ident.Digest {
	return fieldhash.Of([]byte("cupel/session/v1"), creator[:], s.Canonical())
}

func (s *Session) write(reveal func(secret.Value, Kind) string) []byte {
	o := object{{"version", s.Version}, {"name", string(s.Name)}}
	if s.Predecessor != nil {
		o = append(o, member{"predecessor", s.Predecessor.String()})
	}

	if s.Salt.Len() > 0 {
		o = append(o, member{"salt", reveal(s.Salt, ASCII)})
	}

	var secrets, volumes, images, services list
	for i := range s.Secrets {
		secrets = append(secrets, s.Secrets[i].canonical(reveal))
	}

	for _, v := range s.Volumes {
		volumes = append(volumes, object{{"name", v.Name}})
	}

	for i := range s.Images {
		images = append(images, s.Images[i].canonical())
	}

	for i := range s.Services {
		services = append(services, s.Services[i].canonical())
	}

	o = append(o, member{"secrets", secrets}, member{"volumes", volumes}, member{"images", images}, member{"services", services},
		member{"access_policy", s.Access.canonical()}, member{"security", s.Security.canonical()})

	var b strings.Builder
	b.WriteString("---\n")
	writeObject(&b, o, "", "")
	return []byte(b.String())
}

func (s *Secret) canonical(reveal func(secret.Value, Kind) string) object {
	o := object{{"name", s.Name}, {"kind", string(s.Kind)}}
	if s.HasValue {
		o = append(o, member{"value", reveal(s.Value, s.Kind)})
	} else if s.Kind == ASCII || s.Kind == Binary {
		o = append(o, member{"size", plain(strconv.Itoa(s.Size))})
	}

	for _, m := range []struct{ key, value string }{
		{"key_type", s.KeyType}, {"private_key", s.PrivateKey}, {"issuer", s.Issuer}, {"common_name", s.CommonName},
		{"endpoint", s.Endpoint}, {"valid_for", s.ValidFor},
	} {
		if m.value != "" {
			o = append(o, member{m.key, m.value})
		}
	}

	if len(s.DNS) > 0 {
		o = append(o, member{"dns", texts(s.DNS)})
	}

	return append(o, member{"export_public", plain(strconv.FormatBool(s.ExportPublic))})
}

func (i *Image) canonical() object {
	o := object{{"name", i.Name}}

	var mounts, files list
	for _, m := range i.Volumes {
		mounts = append(mounts, object{{"name", m.Name}, {"path", m.Path}, {"update_policy", string(m.Policy)}})
	}

	for _, f := range i.InjectionFiles {
		files = append(files, object{{"path", f.Path}, {"content", f.Content.String()}, {"permission", plain(fmt.Sprintf("0o%03o", f.Permission))}})
	}

	return append(o, member{"volumes", mounts}, member{"injection_files", files})
}

func (s *Service) canonical() object {
	o := object{{"name", string(s.Name)}}
	if s.ImageName != "" {
		o = append(o, member{"image_name", s.ImageName})
	}

	var variants list
	for _, id := range s.Attestation {
		variants = append(variants, canonicalIdentity(id))
	}
	o = append(o, member{"attestation", variants})
	if len(s.Command) > 0 {
		var argv list
		for _, a := range s.Command {
			argv = append(argv, a.String())
		}
		o = append(o, member{"command", argv})
	}
	var env object
	for _, e := range s.Environment {
		env = append(env, member{e.Name, e.Value.String()})
	}
	o = append(o, member{"environment", env})
	if s.Pwd != "" {
		o = append(o, member{"pwd", s.Pwd})
	}
	if own := s.canonicalCupel(); len(own) > 0 {
		o = append(o, member{"cupel", own})
	}

	return o
}

// canonicalCupel writes the keys of Cupel's own, those alone that are set: a
// session without them keeps the text and the hash that it always had.
func (s *Service) canonicalCupel() object {
	var o object
	if s.StopSignal != "" {
		o = append(o, member{"stop_signal", s.StopSignal})
	}
	if s.OnRenewal != "" {
		o = append(o, member{"on_renewal", s.OnRenewal})
	}
	if s.Offline != 0 {
		o = append(o, member{"offline", s.Offline.String()})
	}
	return o
}

func canonicalIdentity(id evidence.CodeIdentity) object {
	var o object
	if len(id.Measurements) > 0 {
		o = append(o, member{"mrenclave", texts(id.Measurements)})
	}

	if id.Signer == nil {
		return o
	}

	number := func(n uint16) plain { return plain(strconv.Itoa(int(n))) }
	s := object{{"mrsigner", id.Signer.MRSigner.String()}, {"isvprodid", number(id.Signer.ProductID)}}
	for _, m := range []struct {
		key string
		svn *uint16
	}{{"isvsvn", id.Signer.SVN}, {"isvsvn_min", id.Signer.SVNMin}, {"isvsvn_max", id.Signer.SVNMax}} {
		if m.svn != nil {
			s = append(s, member{m.key, number(*m.svn)})
		}
	}

	return append(o, member{"signer", s})
}

func (p AccessPolicy) canonical() object {
	o := object{{"read", texts(p.Read)}, {"update", texts(p.Update)}, {"create_sessions", texts(p.CreateSessions)}}

	if p.Deploy != nil {
		o = append(o, member{"deploy", texts(p.Deploy)})
	}

	return o
}

func (s Security) canonical() object {
	return object{{"attestation", object{
		{"mode", s.Mode}, {"tolerate", texts(s.Tolerate)}, {"ignore_advisories", texts(s.IgnoreAdvisories)}}}}
}

// texts is a list of what T is written as.
func texts[T any](in []T) list {
	var out list
	for _, v := range in {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

// writeObject writes members; first stands before the first of them, indent
// before the others.
func writeObject(b *strings.Builder, o object, first, indent string) {
	for i, m := range o {
		if i == 0 {
			b.WriteString(first)
		} else {
			b.WriteString(indent)
		}
		b.WriteString(Quote(m.key) + ":")
		writeValue(b, m.value, indent)
	}
}

func writeValue(b *strings.Builder, v any, indent string) {
	switch v := v.(type) {
	case object:
		if len(v) == 0 {
			b.WriteString(" {}\n")
			return
		}
		b.WriteByte('\n')
		writeObject(b, v, indent+"  ", indent+"  ")

	case list:
		if len(v) == 0 {
			b.WriteString(" []\n")
			return
		}
		b.WriteByte('\n')
		for _, e := range v {
			if o, ok := e.(object); ok && len(o) > 0 {
				writeObject(b, o, indent+"  - ", indent+"    ")
				continue
			}
			b.WriteString(indent + "  -")
			writeValue(b, e, indent+"  ")
		}
	case plain:
		b.WriteString(" " + string(v) + "\n")
	case string:
		b.WriteString(" " + Quote(v) + "\n")
	}
}

var (
	plainWord = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./-]{0,127}$`)
	notText   = regexp.MustCompile(`^(?i:true|false|yes|no|on|off|y|n|null)$`)
)

// Quote writes s as one YAML scalar that reads back as the text s: as it is
// where no reader could take it for anything else, otherwise in double quotes.
func Quote(s string) string {
	if plainWord.MatchString(s) && !notText.MatchString(s) {
		return s
	}

	var b strings.Builder

	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c >= ' ' && c <= '~', c >= 0xa1 && c < 0x2000, c >= 0x3000 && c < 0xd800:
			b.WriteRune(c)
		case c <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, c)
		case c <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			fmt.Fprintf(&b, `\U%08x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
