package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/internal/trusted/owner/reference"
	"cupel.dev/cupel/runtimes"
)

func newRuntimeListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the runtimes that are defined and the measurements vouched for",
		Example: "  cupel runtime list -o json",
		Args:    exactArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return runRuntimeList(c.Context(), g) },
	}
}

type runtimeEntry struct {
	Runtime    string            `json:"runtime"`
	Definition string            `json:"definition"`
	Packages   []string          `json:"packages"`
	Vouched    []reference.Value `json:"vouched"`
}

func runRuntimeList(ctx context.Context, g *globals) error {
	folder, err := g.folder()
	if err != nil {
		return err
	}
	values, err := reference.Read(folder)
	if err != nil {
		return err
	}

	names := runtimes.Names()
	files, err := filepath.Glob(filepath.Join("runtimes", "*.yml"))
	if err != nil {
		return fmt.Errorf("list definitions: %w", err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".yml"))
	}

	slices.Sort(names)
	entries := []runtimeEntry{}
	for _, name := range slices.Compact(names) {
		def, err := runtimes.Find(ctx, name, "")
		if err != nil {
			return err
		}
		e := runtimeEntry{
			Runtime:    name,
			Definition: whereFound(def),
			Packages:   def.Packages,
			Vouched:    []reference.Value{},
		}

		for _, v := range values {
			if v.Runtime == name {
				e.Vouched = append(e.Vouched, v)
			}
		}

		entries = append(entries, e)
	}

	if g.json() {
		return g.printJSON(entries)
	}

	var rows [][]string
	for _, e := range entries {
		row := []string{e.Runtime, e.Definition, "-", "none: cupel runtime measure " + e.Runtime}
		if len(e.Vouched) > 0 {
			v, _ := reference.Newest(e.Vouched, e.Runtime)
			row[2] = v.IndexDate.Format(time.DateOnly)
			row[3] = v.Measurement.String()
		}

		rows = append(rows, row)
	}
	return g.table([]string{"RUNTIME", "DEFINITION", "INDEX DATE", "VOUCHED MEASUREMENT"}, rows)
}
