package launcher

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/owners"
)

const commitOfTest = "0123456789abcdef0123456789abcdef01234567"

func TestStatementGoesWithTheTag(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.addVolume(owners.ReadWrite)
	s.command(`echo x > /home/app/data/f
		echo '{"commit":"` + commitOfTest + `","pinned":true,"follows":"unknown"}' > /run/cupel/statement.json`)
	s.run(0)
	if len(s.cas.tags) != 1 {
		t.Fatalf("tags %v: %s", s.cas.tags, &s.errs)
	}
	want := &owners.Statement{Commit: commitOfTest, Pinned: true, Follows: owners.FollowsUnknown}
	if d := cmp.Diff(want, s.cas.tags[0].Statement); d != "" {
		t.Error(d)
	}
}

func TestWrongStatementIsRefused(t *testing.T) {
	t.Parallel()
	good := `'{"commit":"` + commitOfTest + `","pinned":true,"follows":"no"}'`
	for name, script := range map[string]string{
		"nonsense":      "echo nonsense > /run/cupel/statement.json",
		"a link":        "echo " + good + " > /home/app/data/s; ln -s /home/app/data/s /run/cupel/statement.json",
		"a directory":   "mkdir /run/cupel/statement.json",
		"a pipe":        "mkfifo /run/cupel/statement.json",
		"too long":      "{ echo " + good + "; head -c 5000 /dev/zero | tr '\\0' ' '; } > /run/cupel/statement.json",
		"nothing in it": "> /run/cupel/statement.json",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t)
			s.addVolume(owners.ReadWrite)
			s.command("echo x > /home/app/data/f; " + script)
			s.refused(exitRefused, "statement")
			if len(s.cas.tags) != 0 || len(s.host.stored) != 0 {
				t.Error("it was committed")
			}
		})
	}
}

// TestStatementInAVolumeDoesNotCount: it may be of an earlier run.
func TestStatementInAVolumeDoesNotCount(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.addVolume(owners.ReadWrite)
	s.cas.reply.Volumes[0].Path = "/run/cupel"
	s.command(`echo '{"commit":"` + commitOfTest + `","pinned":true,"follows":"no"}' > /run/cupel/statement.json`)
	s.run(0)
	if len(s.cas.tags) != 1 || s.cas.tags[0].Statement != nil {
		t.Errorf("tags %+v: %s", s.cas.tags, &s.errs)
	}
}

func TestParseStatement(t *testing.T) {
	long := strings.Repeat("a", 64)
	for text, ok := range map[string]bool{
		`{"commit":"` + long + `","pinned":false,"follows":"yes"}` + "\n":                         true,
		`{"commit":"` + commitOfTest + `","pinned":false,"follows":"no"}`:                         true,
		`{"commit":"` + commitOfTest + `","pinned":false}`:                                        false,
		`{"commit":"` + commitOfTest + `","pinned":"false","follows":"no"}`:                       false,
		`{"commit":"` + commitOfTest + `","pinned":null,"follows":"no"}`:                          false,
		`{"commit":"` + commitOfTest + `","Pinned":false,"follows":"no"}`:                         false,
		`{"commit":"` + commitOfTest + `","pinned":false,"follows":"maybe"}`:                      false,
		`{"commit":"` + commitOfTest + `","pinned":false,"follows":"no","more":1}`:                false,
		`{"commit":"` + commitOfTest + `","commit":"` + long + `","pinned":false,"follows":"no"}`: false,
		`{"commit":"` + commitOfTest + `","pinned":false,"follows":"no"} {}`:                      false,
		`{"commit":"` + strings.ToUpper(long) + `","pinned":false,"follows":"no"}`:                false,
		`{"commit":"` + long[1:] + `","pinned":false,"follows":"no"}`:                             false,
		`[]`: false, ``: false, `{`: false, `null`: false,
	} {
		s, err := parseStatement([]byte(text))
		if (err == nil) != ok || (s == nil) == ok {
			t.Errorf("%s: %v, %v", text, s, err)
		}
	}
}

func FuzzParseStatement(f *testing.F) {
	f.Add([]byte(`{"commit":"` + commitOfTest + `","pinned":true,"follows":"no"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStatement(b); err == nil && !owners.IsCommit(s.Commit) {
			t.Errorf("accepted %q", b)
		}
	})
}
