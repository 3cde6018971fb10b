package wording

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
// kind, code points that Unicode has no character for (and of private use, whose look no
// two terminals agree on), soft hyphens, tags, fillers, bytes that are no text. What joins
// or parts letters and emoji, or chooses how they look, stays where it does that.
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
	var b strings.Builder
	var at place

	for len(s) > 0 {
		r, size := decode(s)
		if at.seen(r, s[size:]) || strings.ContainsRune(keep, r) {
			b.WriteString(s[:size])
		} else {
			b.WriteString(strings.Trim(strconv.QuoteToASCII(s[:size]), `"`))
		}
		s = s[size:]
	}

	return b.String()
}

// nothing stands where there is no character: at the ends of a text, and for a byte that is
// none.
const nothing = -1

func decode(s string) (rune, int) {
	r, size := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && size <= 1 {
		r = nothing
	}
	return r, size
}

// place is one in a text: what is seen before it, and to which letter or sign that belongs.
type place struct{ before, base rune }

// seen tells whether people see a character as it is where it stands, a graphic one, as
// Unicode has it, and what its neighbours need; it goes on behind that.
func (p *place) seen(r rune, rest string) bool {
	if ' ' <= r && r <= '~' { // nearly all there is
		*p = place{r, r}
		return true
	}

	after, _ := decode(rest)
	ok := unicode.IsGraphic(r)
	switch {
	case r == '\u200c' || r == '\u200d': // zero width non-joiner, zero width joiner
		ok = joins(p.base) && joins(after)
	case unicode.Is(unicode.Variation_Selector, r):
		ok = varies(p.before, r, after)
	case r == '\u2800': // a blank of Braille
		ok = unicode.Is(unicode.Braille, p.before) || unicode.Is(unicode.Braille, after) && after != r
	case unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r):
		ok = false
	}

	switch {
	case !ok:
		*p = place{nothing, nothing}
	case unicode.Is(unicode.Inherited, r): // a mark on what is before it
		p.before = r
	default:
		*p = place{r, r}
	}

	return ok
}

// joins tells whether a character may look different where a joiner stands beside it, as
// letters of Persian and Sinhala do, and emoji. Beside those of English one hides.
func joins(r rune) bool {
	return r > unicode.MaxASCII && unicode.In(r, unicode.L, unicode.M, unicode.S) && !unicode.In(r, unicode.Latin, unicode.Inherited)
}

// varies tells whether a character may look different before a variation selector, as
// emoji do, ideographs, and letters of Mongolian. Behind any other one hides.
func varies(base, selector, after rune) bool {
	switch {
	case selector < '\ufe00': // Mongolian ones
		return unicode.Is(unicode.Mongolian, base)
	case selector > '\ufe0f': // of the Ideographic Variation Database
		return unicode.Is(unicode.Han, base)
	case after == '\u20e3': // a keycap
		return strings.ContainsRune("0123456789#*", base)
	}
	return base > unicode.MaxASCII && unicode.In(base, unicode.S, unicode.Han, unicode.Myanmar, unicode.Phags_Pa) ||
		strings.ContainsRune("\u203c\u2049\u2139\u3030\u303d", base) // punctuation and a letter that are emoji, too
}

// JSON is the same JSON, with everything in its strings escaped that Line writes out: its
// encoder leaves to a terminal what isn't of ASCII.
func JSON(encoded []byte) []byte {
	out := make([]byte, 0, len(encoded))
	var at place
	for rest := string(encoded); len(rest) > 0; {
		r, size := decode(rest)
		seen := at.seen(r, rest[size:])

		switch {
		case r == nothing || r < 0x7f || seen:
			out = append(out, rest[:size]...)
		case r > 0xffff: // RFC 8259, section 7: as a pair of surrogates
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}

		rest = rest[size:]
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
