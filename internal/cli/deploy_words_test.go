package cli

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLongLastWordsAreCut(t *testing.T) {
	if line := strings.Repeat("a", longestWord); (&globals{}).shortened(line) != line {
		t.Error("a line that fits is cut")
	}
	for _, line := range []string{strings.Repeat("a", 100_000), "a" + strings.Repeat("ü", 50_000)} {
		got := (&globals{}).shortened(line)
		if len(got) > longestWord+100 || !strings.Contains(got, "cupel logs") || !utf8.ValidString(got) {
			t.Errorf("%d bytes become %d: …%s", len(line), len(got), got[max(0, len(got)-80):])
		}
	}
}
