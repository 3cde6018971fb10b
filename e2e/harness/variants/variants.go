// Package variants makes builds that the product never has: a test's attacker, and
// the positive control of a search. The product's folders hold none of their code
// and no place where it is plugged in.
//
// A variant is a folder of files here, which the Go command compiles in the place
// of the product's (go help build, -overlay):
//
//	testdata/VARIANT/PATH             replaces the file PATH of the source tree
//	testdata/VARIANT/…/variant_test.go  is added to PATH's package: it shows that the
//	                                  variant fits the product and does what it is for
//
// The Go command ignores what lies in testdata, so none of it is built by itself.
package variants

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Variant is the name of a variant's folder.
type Variant string

// The variants.
const (
	// Plaintext seals nothing: snapshots of volumes and rows of the CAS are plaintext
	// with an authentication code. A search for secrets must find them there.
	Plaintext Variant = "plaintext"
	// Hostile is an operator's node that does to launches and to volumes what
	// CUPEL_HOSTILE says.
	Hostile Variant = "hostile"
)

// addedTest is the one name of a variant's file that the product doesn't have.
const addedTest = "variant_test.go"

// Overlay writes a variant's overlay file into dir and returns its path and the
// packages that the variant changes, for the Go command run in root, the source tree.
func Overlay(root string, v Variant, dir string) (file string, packages []string, err error) {
	replace := map[string]string{}
	from := filepath.Join(root, "e2e", "harness", "variants", "testdata", string(v))
	err = filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}

		inTree, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		replaced := filepath.Join(root, inTree)
		if e.Name() == addedTest {
			packages = append(packages, "./"+filepath.Dir(inTree))
		} else if _, err := os.Stat(replaced); err != nil {
			return fmt.Errorf("the variant %s replaces a file that is not there: %w", v, err)
		}
		replace[replaced] = path
		return nil
	})
	if err != nil {
		return "", nil, err
	}

	b, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "\t")
	if err != nil {
		return "", nil, err
	}
	file = filepath.Join(dir, string(v)+".overlay.json")
	return file, packages, os.WriteFile(file, b, 0o644)
}
