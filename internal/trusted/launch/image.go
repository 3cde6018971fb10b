package launch

import (
	"fmt"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// ImageConfig is what an image says about itself, as far as a launch depends
// on it.
type ImageConfig struct {
	Config     ident.Digest   // SHA-256 of the OCI image config's bytes
	DiffIDs    []ident.Digest // of the uncompressed layers, lowest first
	User       string         // as in the image: "", "name", "uid", "uid:gid", …
	Env        []string       // NAME=VALUE
	Cwd        string         // "": the root
	Entrypoint []string
	Cmd        []string
}

// ParseImageConfig reads an OCI image config and computes its digest. Fields
// that a launch does not depend on are ignored, a duplicate or wrongly typed
// one is refused.
func ParseImageConfig(configJSON []byte) (ImageConfig, error) {
	img, err := parseImageConfig(configJSON)
	if err != nil {
		return ImageConfig{}, invalid(ruleImageConfig, "image config: %w", err)
	}
	return img, nil
}

func parseImageConfig(configJSON []byte) (ImageConfig, error) {
	img := ImageConfig{Config: ident.Sum(configJSON)}
	top, err := parseObject(configJSON)
	if err != nil {
		return img, err
	}

	r := reader{}
	if os := r.text(top, "os"); os != "" && os != "linux" {
		return img, fmt.Errorf("os %q: want linux", os)
	}

	c := r.object(top, "config")
	img.User = r.text(c, "User")
	img.Cwd = r.text(c, "WorkingDir")
	img.Env = r.texts(c, "Env")
	img.Entrypoint = r.texts(c, "Entrypoint")
	img.Cmd = r.texts(c, "Cmd")

	for _, s := range r.texts(r.object(top, "rootfs"), "diff_ids") {
		if !strings.HasPrefix(s, "sha256:") {
			return img, fmt.Errorf("diff id %q: want sha256:…", s)
		}

		d, err := ident.ParseDigest(s)
		if err != nil {
			return img, fmt.Errorf("diff id: %w", err)
		}
		img.DiffIDs = append(img.DiffIDs, d)
	}

	if r.err != nil {
		return img, r.err
	}
	if len(img.DiffIDs) == 0 {
		return img, fmt.Errorf("no layers (rootfs.diff_ids)")
	}
	return img, nil
}

// reader picks typed members out of parsed JSON and keeps the first error.
type reader struct{ err error }

func (r *reader) fail(key, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: want %s", key, want)
	}
}

func (r *reader) object(o map[string]any, key string) map[string]any {
	switch v := o[key].(type) {
	case nil:
	case map[string]any:
		return v
	default:
		r.fail(key, "an object")
	}
	return nil
}

func (r *reader) text(o map[string]any, key string) string {
	switch v := o[key].(type) {
	case nil:
	case string:
		return v
	default:
		r.fail(key, "a string")
	}
	return ""
}

func (r *reader) texts(o map[string]any, key string) []string {
	var out []string
	switch v := o[key].(type) {
	case nil:
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				r.fail(key, "a list of strings")
			}
			out = append(out, s)
		}
	default:
		r.fail(key, "a list of strings")
	}
	return out
}

func invalid(rule problem.Rule, format string, args ...any) *problem.Error {
	return problem.New(problem.Invalid, rule, format, args...)
}
