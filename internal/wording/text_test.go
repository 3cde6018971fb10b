package wording

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

const hostile = "ok\x1b[2J\x1b]52;c;cm0gLXJmIC8=\x07\r\u009b1A\u202egnp\xff"

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"plain, Überschrift ✓":    "plain, Überschrift ✓",
		"e\u0301 日本 \u2764\ufe0f": "e\u0301 日本 \u2764\ufe0f",
		"\uFFFD stays":            "\uFFFD stays",
		"two\nlines\tand":         `two\nlines\tand`,
		hostile:                   `ok\x1b[2J\x1b]52;c;cm0gLXJmIC8=\a\r\u009b1A\u202egnp\xff`,
		`"quoted"` + "\x7f":       `"quoted"\x7f`,
		"a\u200bb\u00adc\ufeff\u2028\u2029\u061c\u2066\u200e\ue000\U000e0041\u0378": `a\u200bb\u00adc\ufeff\u2028\u2029\u061c\u2066\u200e\ue000\U000e0041\u0378`,
	} {
		if got := Line(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	if got := LogLine("a\nb\tc"); got != "a\\nb\tc" {
		t.Errorf("a line of a log: %s", got)
	}
	if got := Document("a\nb\tc\x1b"); got != "a\nb\tc\\x1b" {
		t.Errorf("a document: %s", got)
	}
}

// TestJoiners: text of scripts, and emoji, that characters without a width of their own
// join or part is shown as it is; where such a character only hides, it is written out.
func TestJoiners(t *testing.T) {
	for _, s := range []string{
		"می\u200cخواهم", "\u0dc1\u0dca\u200d\u0dbb\u0dd3", "\U0001f469\u200d\U0001f4bb ok",
		"\u2764\ufe0f\u200d\U0001f525", "1\ufe0f\u20e3 \u203c\ufe0f \u00a9\ufe0f", "\u8fbb\U000e0100", "\u1820\u180b", "م\u064e\u200cی", "\u28ff\u2800\u2800\u28ff", "\U0001f468\U0001f3fd\u200d\U0001f9b0",
		"\u2139\ufe0f info", "\u303d\ufe0f",
	} {
		if got := LogLine(s); got != s {
			t.Errorf("%q is shown as %s", s, got)
		}
		if got := string(JSON([]byte(`{"a":"` + s + `"}`))); got != `{"a":"`+s+`"}` {
			t.Errorf("%q is in JSON %s", s, got)
		}
	}
	for in, want := range map[string]string{
		"\u200cمی":                                  `\u200cمی`,
		"می\u200d":                                  `می\u200d`,
		"می\u200c خواهم":                            `می\u200c خواهم`,
		"می\u200c\u200cخ":                           `می\u200c\u200cخ`,
		"می\u200c\u202eخ":                           `می\u200c\u202eخ`,
		"my\u200c-app\u200dx+\u200c+":               `my\u200c-app\u200dx+\u200c+`,
		"é\u200dü":                                  `é\u200dü`,
		"می\u200c\xff":                              `می\u200c\xff`,
		"\xff\u200cمی":                              `\xff\u200cمی`,
		"soft\u00adhyphen":                          `soft\u00adhyphen`,
		"a\ufe0f\u200d\ufe0fb":                      `a\ufe0f\u200d\ufe0fb`,
		"a\u0301\u200d\u0301b":                      "a\u0301" + `\u200d` + "\u0301b",
		"\u2764\ufe0f\ufe0f":                        "\u2764\ufe0f" + `\ufe0f`,
		"my\u3164\u2800\u115f\u1160\uffa0\u034fapp": `my\u3164\u2800\u115f\u1160\uffa0\u034fapp`,
		"my\u17b4\u17b5\u180b\u180c\u180d\u180e\u180fapp":     `my\u17b4\u17b5\u180b\u180c\u180d\u180e\u180fapp`,
		"my\ufe00app1\ufe0f\U000e0100\U000e01efx\u2065\ufff0": `my\ufe00app1\ufe0f\U000e0100\U000e01efx\u2065\ufff0`,
	} {
		if got := Line(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	if got, want := string(JSON([]byte("\"a\u200cb\u200d\""))), `"a\u200cb\u200d"`; got != want {
		t.Errorf("in JSON: %s, want %s", got, want)
	}
}

// TestLinesOfOthers: a text of several lines forges none of ours.
func TestLinesOfOthers(t *testing.T) {
	got := Lines("session unreadable\nVERIFIED        FOUND\nplatform\tSGX hardware\r\n\n")
	if want := "session unreadable\n  | VERIFIED        FOUND\n  | platform\\tSGX hardware\\r"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzLines(f *testing.F) {
	f.Add(hostile)
	f.Fuzz(func(t *testing.T, s string) {
		if got := Line(s); strings.ContainsAny(got, "\x1b\x07\r\n\t\x7f") {
			t.Errorf("%q", got)
		}
		for n, line := range strings.Split(Lines(s), "\n") {
			if n > 0 && !strings.HasPrefix(line, Quote) {
				t.Errorf("%q", line)
			}
		}
	})
}

// TestJSON: what a terminal would obey is escaped, and the value is the same.
func TestJSON(t *testing.T) {
	value := map[string]string{"a": "Ü\u0085\u009b\x7f\u202e\u2066\u200e\u061c\U000e0041\u2028\n\x1b ✓😀", "b<&": "\ud7ff\ue000"}
	var out bytes.Buffer
	if err := json.NewEncoder(JSONWriter(&out)).Encode(value); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\u0085\u009b\x7f\u202e\u2066\u200e\u061c\U000e0041\u2028\x1b\ue000") ||
		!strings.Contains(out.String(), `\u009b\u007f\u202e`) || !strings.Contains(out.String(), "✓😀") {
		t.Errorf("%s", &out)
	}
	var again map[string]string
	if err := json.Unmarshal(out.Bytes(), &again); err != nil || again["a"] != value["a"] || again["b<&"] != value["b<&"] {
		t.Errorf("%q, %v", again, err)
	}
}

func FuzzJSON(f *testing.F) {
	f.Add(hostile)
	f.Fuzz(func(t *testing.T, s string) {
		plain, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var one, other string
		if err := json.Unmarshal(plain, &one); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(JSON(plain), &other); err != nil || one != other {
			t.Errorf("%q, %q, %v", one, other, err)
		}
	})
}
