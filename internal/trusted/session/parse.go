package session

import (
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// Parse reads one session, with its template variables filled in. Every refusal
// is a *problem.Error of kind invalid with line and column. Neither refusals nor
// warnings quote a value: any line may hold a secret by mistake. They name keys,
// names that the language accepted, and likely misspellings of its words.
func Parse(text []byte) (*Session, error) {
	root, err := Tree(text)
	if err != nil {
		return nil, err
	}
	return parseTree(root)
}

func parseTree(root *yaml.Node) (*Session, error) {
	r := &reader{session: &Session{}, kinds: map[string]Kind{}}

	r.read(root)

	if r.err != nil {
		return nil, r.err
	}

	return r.session, nil
}

func (r *reader) read(root *yaml.Node) {
	s := r.session
	r.version(root) // first: in another language, other keys are unknown
	if r.err != nil {
		return
	}

	f := r.mapping(root, &sectionSession)
	if name := r.required(f, "name", "session"); name != "" {
		var err error
		if s.Name, err = ident.ParseSessionName(name); err != nil {
			r.refuse(f.at("name"), ruleField, "%v", err)
		}
	}

	r.predecessor(f)
	r.salt(f)

	if n := f.values["security"]; n != nil && !isNull(n) {
		r.security(n)
	} else {
		s.Security.Mode = "hardware"
	}

	r.secrets(f)
	r.volumes(f)
	r.images(f)
	r.services(f)
	r.access(f)
}

var versionText = regexp.MustCompile(`^0\.3(\.([0-9]|1[0-2]))?$`)

func (r *reader) version(root *yaml.Node) {
	var n *yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "version" {
			n = root.Content[i+1]
		}
	}

	const want = `"0.3" or "0.3.0" to "0.3.12"`
	if n == nil {
		r.refuse(root, problem.RuleSessionVersion, "no version, which means language 0.1").Want(want).
			Fix(`translate the session and add version: "0.3"`)
		return
	}

	v := r.scalar(n, "version")

	switch {
	case versionText.MatchString(v):
		r.session.Version = v
	case v == "0.1" || v == "0.2":
		r.refuse(n, problem.RuleSessionVersion, "language version %s is not supported", v).Want(want).
			Fix("translate the session to 0.3: exports and imports, certificates and access rules are written otherwise there")
	default:
		r.refuse(n, problem.RuleSessionVersion, "unknown language version, %s", shown(v, nil)).Want(want)
	}
}

func (r *reader) predecessor(f fields) {
	n := f.values["predecessor"]
	if n == nil || isNull(n) || n.Kind == yaml.ScalarNode && n.Value == "" {
		return
	}

	v := r.scalar(n, "predecessor")

	d, err := ident.ParseDigest(v)
	if err != nil {
		r.refuse(n, ruleField, "predecessor: %v", err)
		return
	}

	r.session.Predecessor = &d
}

func (r *reader) volumes(f fields) {
	seen := map[string]bool{}
	for _, n := range r.list(f, "volumes") {
		v := r.mapping(n, &sectionVolume)
		name := r.required(v, "name", "volume")

		if name != "" && !secretName.MatchString(name) {
			r.refuse(v.at("name"), ruleField, "the volume name is %s", shown(name, nil)).Want("1 to 128 of A-Z a-z 0-9 _ . ~ -")
		}

		r.once(seen, v.at("name"), "volume", name)

		r.session.Volumes = append(r.session.Volumes, Volume{Name: name})
	}
}

func (r *reader) volumeNames() (names []string) {
	for _, v := range r.session.Volumes {
		names = append(names, v.Name)
	}
	return names
}

func (r *reader) images(f fields) {
	seen := map[string]bool{}
	for _, n := range r.list(f, "images") {
		i := r.mapping(n, &sectionImage)
		img := Image{Name: r.required(i, "name", "image")}

		if len(img.Name) > 512 {
			r.refuse(i.at("name"), ruleField, "an image name of %d bytes", len(img.Name)).Want("at most 512")
		}

		r.once(seen, i.at("name"), "image", img.Name)

		taken := occupied{map[string]bool{}, map[string]string{}}
		mounted := map[string]bool{}

		for _, m := range r.list(i, "volumes") {
			mount := r.mount(m)
			r.once(mounted, m, "mount in one image of the volume", mount.Name)
			r.occupy(taken, m, mount.Path)
			img.Volumes = append(img.Volumes, mount)
		}

		for _, m := range r.list(i, "injection_files") {
			file := r.injectionFile(m)
			r.occupy(taken, m, file.Path)
			img.InjectionFiles = append(img.InjectionFiles, file)
		}

		r.session.Images = append(r.session.Images, img)
	}
}

func (r *reader) mount(n *yaml.Node) VolumeMount {
	f := r.mapping(n, &sectionMount)
	m := VolumeMount{
		Name: r.required(f, "name", sectionMount.name),
		Path: r.path(f, "path", sectionMount.name),
		Policy: UpdatePolicy(r.word(f, "update_policy", string(RollbackProtected),
			string(RollbackProtected), string(Ephemeral))),
	}

	if _, ok := r.session.Volume(ident.VolumeName(m.Name)); !ok {
		r.refuse(f.at("name"), ruleReference, "name is that of no volume: %s", shown(m.Name, r.volumeNames())).Fix("define it under `volumes:`")
	}

	return m
}

func (r *reader) injectionFile(n *yaml.Node) InjectionFile {
	if n.Kind == yaml.ScalarNode {
		r.refuse(n, ruleUnsupported, "a template that is read from the container is known to the SCONE language, but not supported yet").
			Fix("write {path: …, content: …}")
		return InjectionFile{}
	}

	f := r.mapping(n, &sectionFile)
	file := InjectionFile{Path: r.path(f, "path", sectionFile.name), Permission: 0o400}

	if !f.has("content") {
		r.refuse(f.node, ruleUnsupported, "an injection file without content (read from the container) is known to the SCONE language, but not supported yet").
			Fix("add `content:`")
	}

	file.Content = r.reference(f.values["content"], r.text(f, "content"), false)

	if p := f.values["permission"]; p != nil {
		file.Permission = r.permission(p)
	}

	return file
}

// permission reads 0o400 or 0400; a decimal would be misread by one reader or
// the other.
func (r *reader) permission(n *yaml.Node) uint32 {
	v := r.scalar(n, "permission")

	digits, ok := strings.CutPrefix(v, "0o")
	if !ok {
		digits, ok = strings.CutPrefix(v, "0")
	}

	var bits uint32
	for _, c := range digits {
		ok = ok && c >= '0' && c <= '7'
		bits = bits<<3 | uint32(c-'0')&7
	}

	if !ok || len(digits) != 3 {
		r.refuse(n, ruleField, "permission is %s", shown(v, nil)).Want("three octal digits after 0o, like 0o400")
		return 0o400
	}

	return bits
}

// path reads an absolute, clean path that an app may have.
func (r *reader) path(f fields, key, of string) string {
	p := r.required(f, key, of)
	if p != "" {
		r.checkPath(f.at(key), key, p)
	}

	return p
}

func (r *reader) checkPath(n *yaml.Node, key, p string) {
	switch {
	case !path.IsAbs(p) || path.Clean(p) != p || len(p) > 4096:
		r.refuse(n, ruleField, "%s is %s", key, shown(p, nil)).Want("an absolute path without //, . or .. or a slash at its end")
	case key == "path" && p == "/":
		r.refuse(n, ruleField, "path is the root directory").Want("a path below it")
	}

	if key != "path" {
		return
	}

	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if p == kernel || strings.HasPrefix(p, kernel+"/") {
			r.refuse(n, ruleField, "path lies in %s", kernel).Want("a path outside of /proc, /sys and /dev")
		}
	}
}

// occupied is what lies where in one image, and which directories lead there.
type occupied struct {
	things  map[string]bool
	parents map[string]string // directory -> a thing below it
}

// occupy refuses two things in one place, and anything below of another: a file
// in a volume would be stored with it.
func (r *reader) occupy(taken occupied, n *yaml.Node, p string) {
	if r.err != nil {
		return // p may be no path
	}

	collision := ""
	if taken.things[p] {
		collision = p
	}
	if below, ok := taken.parents[p]; ok {
		collision = below
	}

	for dir := path.Dir(p); dir != "/" && dir != "."; dir = path.Dir(dir) {
		if taken.things[dir] {
			collision = dir
		}
		taken.parents[dir] = p
	}

	taken.things[p] = true

	if collision != "" {
		r.refuse(n, ruleField, "%q and %q collide in one image", clip(p), clip(collision)).
			Want("volumes and files that do not contain each other")
	}
}

// reference parses a text and resolves what it refers to.
func (r *reader) reference(n *yaml.Node, s string, inline bool) Text {
	if s == "" {
		return nil
	}

	t, err := parseText(s)
	if err != nil {
		r.refuse(n, ruleReference, "%v", err)
		return nil
	}

	for _, p := range t {
		if p.Ref == nil {
			continue
		}
		if e := resolve(p.Ref, r.kinds, inline); e != nil {
			e.Actual = place(n) + ": " + e.Actual
			if r.err == nil {
				r.err = e
			}
			return nil
		}
	}

	return t
}

// Service returns the service of that name.
func (s *Session) Service(name ident.ServiceName) (*Service, bool) {
	return find(s.Services, func(v *Service) bool { return v.Name == name })
}

// Image returns the image of that name. A service may name one that is not
// there: it has neither volumes nor files.
func (s *Session) Image(name ident.ImageName) (*Image, bool) {
	return find(s.Images, func(v *Image) bool { return v.Name == string(name) })
}

// Secret returns the secret of that name.
func (s *Session) Secret(name ident.SecretName) (*Secret, bool) {
	return find(s.Secrets, func(v *Secret) bool { return v.Name == string(name) })
}

// Volume returns the volume of that name.
func (s *Session) Volume(name ident.VolumeName) (*Volume, bool) {
	return find(s.Volumes, func(v *Volume) bool { return v.Name == string(name) })
}

// WithPredecessor returns the session as the successor of another version.
func (s *Session) WithPredecessor(d ident.Digest) *Session {
	next := *s
	next.Predecessor = &d
	return &next
}

func find[T any](in []T, is func(*T) bool) (*T, bool) {
	for i := range in {
		if is(&in[i]) {
			return &in[i], true
		}
	}

	return nil, false
}
