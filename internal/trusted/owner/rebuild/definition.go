package rebuild

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/rebuild/debian"
)

// MaxDefinition is the most bytes of a definition file that are read.
const MaxDefinition = 1 << 20

// Definition is a runtime: the file runtimes/NAME.yml.
type Definition struct {
	Version      int               `yaml:"version" json:"version"` // 1
	Name         string            `yaml:"name" json:"name"`
	Suite        string            `yaml:"suite" json:"suite"` // Debian's codename: bookworm
	Architecture string            `yaml:"architecture" json:"architecture"`
	Packages     []string          `yaml:"packages" json:"packages"`         // with all that they depend on
	Exclude      []string          `yaml:"exclude" json:"exclude,omitempty"` // dependencies to do without
	Drop         []string          `yaml:"drop" json:"drop,omitempty"`       // files and folders to leave out of every package
	Directories  []Directory       `yaml:"directories" json:"directories,omitempty"`
	Files        []File            `yaml:"files" json:"files,omitempty"`
	User         string            `yaml:"user" json:"user"` // app (uid 1000) or root
	Env          map[string]string `yaml:"env" json:"env,omitempty"`
	Cwd          string            `yaml:"cwd" json:"cwd"`
	Entrypoint   []string          `yaml:"entrypoint" json:"entrypoint,omitempty"`
	Cmd          []string          `yaml:"cmd" json:"cmd,omitempty"`
}

// Directory is a directory that the definition adds.
type Directory struct {
	Path  string `yaml:"path" json:"path"`
	Mode  Mode   `yaml:"mode" json:"mode"`
	Owner string `yaml:"owner" json:"owner,omitempty"` // app or root (default)
}

// File is a file, or with Link a symbolic link, that the definition adds.
type File struct {
	Path    string `yaml:"path" json:"path"`
	Mode    Mode   `yaml:"mode" json:"mode"`
	Content string `yaml:"content" json:"content,omitempty"`
	Link    string `yaml:"link" json:"link,omitempty"`
}

// Mode is permission bits, in YAML octal digits: 0755 or "1777".
type Mode uint32

// UnmarshalYAML reads the digits as they are written, whatever YAML would make
// of a leading zero.
func (m *Mode) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseUint(n.Value, 8, 32)
	if n.Kind != yaml.ScalarNode || err != nil || v == 0 || v > 0o1777 {
		return fmt.Errorf(badMode+"%.20q: want octal digits like 0755, without setuid and setgid", n.Value)
	}
	*m = Mode(v)
	return nil
}

// ParseDefinition reads a definition strictly: unknown and duplicate keys,
// further documents and anything that could not be built are refused.
func ParseDefinition(text []byte) (*Definition, error) {
	d := &Definition{}

	err := decodeStrict(text, MaxDefinition, d)
	if err == nil {
		err = d.check()
	}
	if err != nil {
		return nil, invalid(problem.RuleRuntimeDefinition, "%w", err).
			Fix("mend the definition: 'cupel runtime show python' shows one that can be built")
	}

	return d, nil
}

// Digest names what the definition says; comments and layout don't count.
func (d *Definition) Digest() ident.Digest {
	b, err := json.Marshal(d) // field order is the type's, maps are sorted
	if err != nil {
		panic("a definition of strings and numbers always marshals: " + err.Error())
	}

	return ident.Sum(b)
}

// decodeStrict reads one YAML document whose keys are all known.
func decodeStrict(text []byte, limit int, into any) error {
	if len(text) > limit {
		return fmt.Errorf("more than %d bytes", limit)
	}

	if !utf8.Valid(text) {
		return errors.New("not UTF-8")
	}

	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)

	if err := dec.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("empty")
		}
		return unreadable(err)
	}

	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one document")
	}

	return nil
}

// badMode begins what is said of a mode.
const badMode = "mode "

// unreadable says where a file isn't what it should be. It quotes nothing of it but a
// mode, and a key that looks like one: another file may have been named than was meant.
func unreadable(err error) error {
	all, ok := errors.AsType[*yaml.LoadErrors](err)
	if !ok || len(all.Errors) == 0 {
		line := 1
		if one, ok := errors.AsType[*yaml.LoadError](err); ok {
			line = max(one.Mark.Line, 1)
		}
		return fmt.Errorf("line %d: no YAML that can be read: check indentation, quotes and brackets there", line)
	}

	first := all.Errors[0]
	what := "a value that can't be read"

	key, unknown := strings.CutPrefix(first.Message, "field ")
	key, _, _ = strings.Cut(key, " ")

	switch {
	case unknown && plainKey.MatchString(key):
		what = "the key " + key + " is not known"
	case unknown:
		what = "a key that is not known"
	case strings.HasPrefix(first.Message, "mapping key "):
		what = "a key that is there already"
	case strings.HasPrefix(first.Message, "cannot construct "):
		what = "a value of another kind than belongs there"
	case strings.HasPrefix(first.Message, badMode):
		what = first.Message
	}

	return fmt.Errorf("line %d: %s", first.Mark.Line, what)
}

var (
	plainKey    = regexp.MustCompile(`^[a-z_]{1,32}$`)
	runtimeName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	envName     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// ParseName checks that s may name a runtime.
func ParseName(s string) (string, error) {
	if !runtimeName.MatchString(s) {
		return "", invalid(ruleRuntimeName, "runtime name %.80q", s).Want("1 to 63 of a-z 0-9 -")
	}

	return s, nil
}

// check refuses what could not be built, and what nobody means.
func (d *Definition) check() error {
	if d.Version != 1 {
		return fmt.Errorf("version %d: want 1", d.Version)
	}

	if _, err := ParseName(d.Name); err != nil {
		return err
	}

	if _, err := archives(d.Suite); err != nil {
		return err
	}

	if d.Architecture != "amd64" {
		return fmt.Errorf("architecture %.20q: want amd64", d.Architecture)
	}

	if len(d.Packages) == 0 || len(d.Packages) > 1000 || len(d.Exclude) > 1000 {
		return errors.New("packages: want 1 to 1000")
	}

	for _, list := range [][]string{d.Packages, d.Exclude} {
		for _, name := range list {
			if _, err := debian.ParsePackageName(name); err != nil {
				return err
			}
		}
	}

	if d.User != userApp && d.User != userRoot {
		return fmt.Errorf("user %.40q: want app or root", d.User)
	}

	if d.Cwd != "/" && !cleanAbs(d.Cwd) {
		return fmt.Errorf("cwd %.80q: want a clean absolute path", d.Cwd)
	}

	for k, v := range d.Env {
		if !envName.MatchString(k) || strings.ContainsRune(v, 0) {
			return fmt.Errorf("env %.80q: not a variable", k)
		}
	}

	for _, list := range [][]string{d.Entrypoint, d.Cmd} {
		if slices.ContainsFunc(list, func(s string) bool { return strings.ContainsRune(s, 0) }) {
			return errors.New("entrypoint or cmd: NUL character")
		}
	}

	return d.checkPaths()
}

// checkPaths checks what the definition leaves out and adds.
func (d *Definition) checkPaths() error {
	for _, p := range d.Drop {
		if !cleanAbs(p) {
			return fmt.Errorf("drop %.80q: want a clean absolute path", p)
		}
	}

	for _, dir := range d.Directories {
		if !cleanAbs(dir.Path) || dir.Mode == 0 {
			return fmt.Errorf("directory %.80q: want a clean absolute path and a mode", dir.Path)
		}
		if dir.Owner != "" && dir.Owner != userApp && dir.Owner != userRoot {
			return fmt.Errorf("directory %s: owner %.40q: want app or root", dir.Path, dir.Owner)
		}
	}

	for _, f := range d.Files {
		switch {
		case !cleanAbs(f.Path):
			return fmt.Errorf("file %.80q: want a clean absolute path", f.Path)
		case f.Link != "" && (f.Content != "" || f.Mode != 0):
			return fmt.Errorf("file %s: a link has neither content nor mode", f.Path)
		case f.Link == "" && (f.Mode == 0 || f.Mode > 0o777):
			return fmt.Errorf("file %s: want a mode like 0644", f.Path)
		case len(f.Link) > 4000 || strings.ContainsRune(f.Link, 0):
			return fmt.Errorf("file %s: link %.80q", f.Path, f.Link)
		}
	}

	return nil
}

// cleanAbs accepts absolute paths below the root without surprises.
func cleanAbs(p string) bool {
	return len(p) > 1 && len(p) <= 1024 && p[0] == '/' && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}
