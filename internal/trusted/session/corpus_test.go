package session

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
)

// corpus says what becomes of other people's sessions, with "host" (or a measurement) for
// every template variable: the rule and place of the refusal, or "" for accepted.
var corpus = map[string]string{
	"05-volume-demo-v0.3.yml":                             "",
	"15-secure-deployment-volumes-v0.3.yml":               "",
	"01-encryptedwordcount-v0.1.yml":                      "session_version: line ",
	"02-issre2019-radiomics-upload-v0.1.yml":              "session_version: line ",
	"03-issre2019-radiomics-readback-v0.1.yml":            "session_version: line ",
	"04-amts-tls-v0.2.yml":                                "session_version: line ",
	"07-flask-v0.3.yml":                                   "session_unsupported: line ",
	"09-memcached-v0.3.yml":                               "session_unsupported: line ",
	"10-azure-maa-akv-v0.3.yml":                           "session_unsupported: line ",
	"13-operator-backup-policy-v0.3.10.yml.tpl":           "session_",
	"14-signedpolicy-inner-canonical-v0.3.10.yml":         "session_unsupported: line ",
	"17-ethernity-securelock-v0.3.yml.tpl":                "session_",
	"19-vault-init-fault-NEGATIVE-v0.3.yml":               "session_syntax: line ",
	"11-sconify-image-template-v0.3.yml.tpl":              "session_",
	"testdata/corpus/16-iexec-sms-hardware-v0.3.10.yml":   "session_field: line 14 column 19: mrenclaves: measurement of 10 characters",
	"testdata/corpus/21-mariadb-primary-v0.3.10.yml":      "session_unsupported: line 218 column 5: the key \"export\" of a secret is known",
	"testdata/corpus/24-mariadb-certificates-v0.3.10.yml": "session_unsupported: line 20 column 5: the key \"export\" of a secret is known",
	"testdata/corpus/25-osv-scan-v0.3.10.yml":             "session_unsupported: line 66 column 5: the key \"import\" of a secret is known",
}

func TestCorpus(t *testing.T) {
	for name, want := range corpus {
		t.Run(filepath.Base(name), func(t *testing.T) {
			path := name
			if !strings.HasPrefix(name, "testdata/") {
				folder := os.Getenv("CUPEL_SESSION_CORPUS")
				if folder == "" {
					t.Skip("set CUPEL_SESSION_CORPUS to the folder of sessions that may not be published")
				}
				path = filepath.Join(folder, name)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ParseFilled(text, func(name string) (secret.Value, bool) {
				if strings.Contains(name, "MRENCLAVE") {
					return secret.NewString(m1), true
				}
				return secret.NewString("host"), true
			})
			switch {
			case err == nil && want != "":
				t.Errorf("accepted; want %s", want)
			case err != nil && (want == "" || !strings.HasPrefix(problem.From(err).Error(), want)):
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

// TestSubsetOfCorpus takes out of a real session what is not carried yet; the
// rest must parse.
func TestSubsetOfCorpus(t *testing.T) {
	for name, cut := range map[string][]string{
		"16-iexec-sms-hardware-v0.3.10.yml":   nil,
		"24-mariadb-certificates-v0.3.10.yml": {"    export:", "      - session:", "      ##", "      # -", "    migrate:"},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "corpus", name))
			if err != nil {
				t.Fatal(err)
			}
			var keep []string
			for line := range strings.Lines(string(text)) {
				skip := false
				for _, c := range cut {
					skip = skip || strings.HasPrefix(line, c)
				}
				if !skip {
					keep = append(keep, line)
				}
			}
			plain := strings.NewReplacer("'mrEnclave1'", m1, "'mrEnclave3'", m2).Replace(strings.Join(keep, ""))
			filled, err := Fill([]byte(plain), func(string) (secret.Value, bool) { return secret.NewString("host"), true })
			if err != nil {
				t.Fatal(err)
			}
			s, err := Parse(filled)
			if err != nil {
				t.Fatalf("%v\n%s", err, filled)
			}
			golden(t, strings.TrimSuffix(name, ".yml")+".canonical.yml", s.Canonical())
		})
	}
}
