package cli

import (
	"os"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/internal/trusted/owner"
)

// TestValueOfAFile: a value is what its file says, but for one line end at the end,
// whichever variable it is for. PEM keeps that too.
func TestValueOfAFile(t *testing.T) {
	for text, want := range map[string]string{
		"a": "a", "a\n": "a", "a\r\n": "a", "a\n\n\n": "a\n\n", "a\r\n\r\n": "a\r\n", "a\r": "a\r", "a\nb\n": "a\nb", " a \n": " a ", "\n": "", "": "",
		"\xef\xbb\xbfa\n": "a",
	} {
		file := filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, variable := range []string{owner.SecretPrefix + "KEY", owner.EnvPrefix + "WORDS", owner.VarToken} {
			got, err := valueOf("-e "+variable, variable, "@"+file)
			if err != nil || string(got.Reveal()) != want {
				t.Errorf("%s=%q: %q (%v), not %q", variable, text, got.Reveal(), err, want)
			}
		}
	}
}
