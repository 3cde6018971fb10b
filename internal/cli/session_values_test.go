package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/trusted/owner"
)

// TestValueOfAFile: a value of the app's own is what its file says, but for one line end
// at the end; what git needs has none at its end.
func TestValueOfAFile(t *testing.T) {
	for text, want := range map[string]string{
		"a": "a", "a\n": "a", "a\r\n": "a", "a\n\n\n": "a\n\n", "a\r\n\r\n": "a\r\n", "a\r": "a\r", "a\nb\n": "a\nb", " a \n": " a ", "\n": "", "": "",
		"\xef\xbb\xbfa\n": "a",
	} {
		file := filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for variable, want := range map[string]string{
			owner.SecretPrefix + "KEY": want, owner.EnvPrefix + "WORDS": want, owner.VarToken: strings.TrimRight(want, "\r\n"),
		} {
			got, err := valueOf("-e "+variable, variable, "@"+file)
			if err != nil || string(got.Reveal()) != want {
				t.Errorf("%s=%q: %q (%v), not %q", variable, text, got.Reveal(), err, want)
			}
		}
	}
}
