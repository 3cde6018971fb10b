package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/template"
	"cupel.dev/cupel/internal/trusted/secret"
)

// TestValueOfAFile: a value of the app's own is what its file says, but for a mark of UTF-8
// at the beginning and one line end at the end; what git needs has none at its end.
func TestValueOfAFile(t *testing.T) {
	for text, want := range map[string]string{
		"a": "a", "a\n": "a", "a\r\n": "a", "a\n\n\n": "a\n\n", "a\r\n\r\n": "a\r\n", "a\r": "a\r", "a\nb\n": "a\nb", " a \n": " a ", "\n": "", "": "",
		"\xef\xbb\xbfa\n": "a", "\xef\xbb\xbf\xef\xbb\xbfa": "\ufeffa", "a\ufeff": "a\ufeff",
	} {
		file := filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for variable, want := range map[string]string{
			template.SecretPrefix + "KEY": want, template.EnvPrefix + "WORDS": want, template.VarToken: strings.TrimRight(want, "\r\n"),
		} {
			got, err := valueOf(t.Context(), "-e "+variable, variable, "@"+file)
			if want == "" && variable == template.SecretPrefix+"KEY" {
				if p := problem.From(err); p.Rule != "secret_empty" {
					t.Errorf("%q: %v", text, err)
				}
				continue
			}
			if err != nil || string(got.Reveal()) != want {
				t.Errorf("%s=%q: %q (%v), not %q", variable, text, got.Reveal(), err, want)
			}
		}
	}
}

// TestValuesThatCantBe: what no session can hold is refused by the flag and the variable.
func TestValuesThatCantBe(t *testing.T) {
	for variable, flag := range map[string]string{
		template.EnvPrefix + "WORDS": "--env WORDS", template.SecretPrefix + "KEY": "--secret KEY", "OTHER": "-e OTHER",
	} {
		for _, value := range []string{"a $$SCONE::x$$", "a\x00b", "\xff"} {
			v := values{byName: map[string]secret.Value{template.VarSession: secret.NewString("shop"), variable: secret.NewString(value)}}
			err := v.check()
			if p := problem.From(err); p.Kind != problem.Invalid || !strings.HasPrefix(p.Actual, "the value of "+flag+" ") || p.Mend == "" {
				t.Errorf("%s %q: %v", flag, value, err)
			}
		}
	}
}

// TestEmptySecrets: a secret without a value is refused, unless it comes from where
// nothing is; a variable that is none may be empty.
func TestEmptySecrets(t *testing.T) {
	for _, flag := range []string{"--secret API_KEY", "-e SECRET_API_KEY"} {
		_, err := valueOf(t.Context(), flag, template.SecretPrefix+"API_KEY", "")
		p := problem.From(err)
		if p.Rule != "secret_empty" || !strings.HasPrefix(p.Actual, flag+" has no value") || !strings.HasSuffix(p.Mend, flag+"=@/dev/null") {
			t.Errorf("%v", err)
		}
		if got, err := valueOf(t.Context(), flag, template.SecretPrefix+"API_KEY", "@/dev/null"); err != nil || got.Len() != 0 {
			t.Errorf("on purpose: %v", err)
		}
	}
	if got, err := valueOf(t.Context(), "--env MODE", template.EnvPrefix+"MODE", ""); err != nil || got.Len() != 0 {
		t.Errorf("a variable that is no secret: %v", err)
	}
}
