package cli

import (
	"io"
	"math"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// ink is a colour of a terminal, by its ECMA-48 code.
type ink string

const (
	plainInk ink = ""
	red      ink = "31"
	green    ink = "32"
	yellow   ink = "33"
)

// paint colours what is written to w, if that is a terminal and nobody objects: NO_COLOR
// (no-color.org), CLICOLOR=0 and TERM=dumb do. CLICOLOR_FORCE asks for it anywhere.
func (g *globals) paint(w io.Writer, color ink, s string) string {
	if color == plainInk || !g.colors(w) {
		return s
	}
	return "\x1b[" + string(color) + "m" + s + "\x1b[0m"
}

func (g *globals) colors(w io.Writer) bool {
	if g.env == nil || g.json() || g.env("NO_COLOR") != "" {
		return false
	}
	if forced := g.env("CLICOLOR_FORCE"); forced != "" && forced != "0" {
		return true
	}
	return isTerminal(w) && g.env("CLICOLOR") != "0" && g.env("TERM") != "dumb"
}

// width is how many columns the terminal has; elsewhere lines have no end.
func (g *globals) width() int {
	if f, ok := g.out.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return math.MaxInt
}

// gap lies between two columns.
const gap = "  "

// table writes rows under a header, in aligned columns.
func (g *globals) table(header []string, rows [][]string) error {
	return g.coloredTable(header, rows, func(int, string) ink { return plainInk })
}

// coloredTable is table with a colour for each cell, by its column and text. Where the
// terminal is too narrow, text is cut, and no value: lines wrap rather.
func (g *globals) coloredTable(header []string, rows [][]string, color func(column int, text string) ink) error {
	all := [][]string{header}
	for _, row := range rows {
		shown := make([]string, len(row))
		for i, c := range row {
			shown[i] = cell(c)
		}
		all = append(all, shown)
	}
	widths := columns(all, g.width())
	end := "…" // of what is cut
	if g.writable(end) != end {
		end = "~"
	}

	var b strings.Builder
	for n, row := range all {
		for i, c := range row {
			c = cut(c, widths[i], end)
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)) + gap
			if i == len(row)-1 {
				pad = ""
			}
			if n > 0 {
				c = g.paint(g.out, color(i, c), c)
			}
			b.WriteString(c + pad)
		}
		b.WriteString("\n")
	}
	return g.write(b.String())
}

// leastColumn is how narrow a column becomes at most.
const leastColumn = 8

// columns is how wide each column of a table is, its header among the rows: as its
// longest cell, or narrower where that doesn't fit into a terminal and this does. The
// widest that can give gives first.
func columns(all [][]string, terminal int) []int {
	widths, least := make([]int, len(all[0])), make([]int, len(all[0]))
	for n, row := range all {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
			least[i] = max(least[i], leastColumn, leastCell(c))
			if n == 0 {
				least[i] = max(least[i], utf8.RuneCountInString(c))
			}
		}
	}
	narrowest := -len(gap)
	for i, w := range widths {
		narrowest += min(w, least[i]) + len(gap)
	}
	if narrowest > terminal {
		return widths // lines wrap anyway
	}
	for {
		total, widest := -len(gap), -1
		for i, w := range widths {
			total += w + len(gap)
			if w > least[i] && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if total <= terminal || widest < 0 {
			return widths
		}
		widths[widest]--
	}
}

// leastCell is how narrow a cell becomes at most: what people copy (ids, digests,
// addresses, names) stays whole. A cell of one word is such a value, and in a text each
// long word that no language has.
func leastCell(c string) int {
	if !strings.Contains(c, " ") {
		return utf8.RuneCountInString(c)
	}
	end, at := 0, 0
	for word := range strings.SplitSeq(c, " ") {
		at += utf8.RuneCountInString(word)
		if len(word) >= leastColumn && strings.ContainsAny(word, "0123456789:/=") {
			end = at
		}
		at++
	}
	if end > 0 && end < utf8.RuneCountInString(c) {
		end++ // for what tells that it was cut
	}
	return end
}

// cut is a text in at most so many columns, the last of which tells that it was cut.
func cut(s string, width int, end string) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + end
}
