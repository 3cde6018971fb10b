package runtimes

import (
	"embed"
	"errors"
	"io/fs"
	"strings"
)

//go:embed *.yml
var definitions embed.FS

// Definition returns the text of a definition; false if there is none.
func Definition(name string) ([]byte, bool) {
	if strings.ContainsAny(name, "/.") {
		return nil, false
	}
	b, err := definitions.ReadFile(name + ".yml")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	return b, err == nil
}

// Names lists the definitions, sorted.
func Names() []string {
	entries, err := definitions.ReadDir(".")
	if err != nil {
		return nil
	}

	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yml"))
	}
	return names
}
