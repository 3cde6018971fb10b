package plain

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What commands print comes from managers, apps, git servers and files that nobody
// trusts. A terminal obeys what it is shown: it can be made to hide lines, to write others
// over them, to answer as if the person had typed. And people take for ours what stands
// where our own lines do.

// Line is s on one line, with everything written out that isn't seen as it is: control
// characters, what turns the direction of text around or shows nothing, line ends of any
// kind, code points that mean nothing, bytes that are no text.
func Line(s string) string { return writtenOut(s, "") }

// LogLine is Line, with its tabs.
func LogLine(s string) string { return writtenOut(s, "\t") }

// Document is a text of several lines that is all of an answer.
func Document(s string) string { return writtenOut(s, "\n\t") }

// Quote begins each further line of a text beside lines of ours, of which none begins so.
const Quote = "  | "

// Lines is a text that may have several lines: none of them can be taken for one of ours.
func Lines(s string) string {
	s = writtenOut(strings.TrimRight(s, "\n"), "\n")
	return strings.ReplaceAll(s, "\n", "\n"+Quote)
}

func writtenOut(s, keep string) string {
	unseen := func(r rune) bool { return !unicode.IsGraphic(r) && !strings.ContainsRune(keep, r) }
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unseen) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if unseen(r) || r == utf8.RuneError && size == 1 {
			b.WriteString(strings.Trim(strconv.QuoteToASCII(s[:size]), `"`))
		} else {
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

// JSON is the same JSON, with everything in its strings escaped that Line writes out: its
// encoder leaves to a terminal what isn't of ASCII.
func JSON(encoded []byte) []byte {
	out := make([]byte, 0, len(encoded))
	for len(encoded) > 0 {
		r, size := utf8.DecodeRune(encoded)
		switch {
		case r < 0x7f || unicode.IsGraphic(r):
			out = append(out, encoded[:size]...)
		case r > 0xffff: // RFC 8259, section 7: as a pair of surrogates
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		encoded = encoded[size:]
	}
	return out
}

// JSONWriter writes what an encoder of JSON writes, as JSON has it. Each write is of
// whole characters.
func JSONWriter(w io.Writer) io.Writer { return jsonWriter{w} }

type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(b []byte) (int, error) {
	if _, err := j.w.Write(JSON(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}
