package cli

import (
	"io"
	"math"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"cupel.dev/cupel/internal/wording"
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
// terminal is too narrow, text goes on in the next line of its column, between words;
// where that isn't enough, the last columns stand below each row.
func (g *globals) coloredTable(header []string, rows [][]string, color func(column int, text string) ink) error {
	all := [][]string{header}
	for _, row := range rows {
		shown := make([]string, len(row))
		for i, c := range row {
			shown[i] = wording.Line(c)
		}

		all = append(all, shown)
	}

	return g.write(g.tableText(all, g.width(), color))
}

// tableText is a table whose first row is its header, for a terminal of that width.
func (g *globals) tableText(all [][]string, terminal int, color func(column int, text string) ink) string {
	beside := besides(all, terminal)
	widths := columns(firstColumns(all, beside), terminal)

	var b strings.Builder
	for n, row := range all {
		for _, line := range rowLines(row[:beside], widths) {
			text := ""
			for i, c := range line {
				pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)) + gap
				if i == len(line)-1 {
					pad = ""
				}

				if n > 0 && c != "" {
					c = g.paint(g.out, color(i, row[i]), c)
				}
				text += c + pad
			}
			b.WriteString(strings.TrimRight(text, " ") + "\n")
		}

		if n > 0 && beside < len(row) {
			b.WriteString(below(all[0][beside:], row[beside:], terminal))
		}
	}
	return b.String()
}

// besides is how many columns of a table a terminal has room for beside each other: all,
// where fewer wouldn't help.
func besides(all [][]string, terminal int) int {
	for n := len(all[0]); n > 1; n-- {
		total := -len(gap)
		for _, w := range columns(firstColumns(all, n), terminal) {
			total += w + len(gap)
		}

		if total <= terminal {
			return n
		}
	}
	return len(all[0])
}

func firstColumns(all [][]string, n int) [][]string {
	out := make([][]string, len(all))
	for i, row := range all {
		out[i] = row[:n]
	}
	return out
}

// below are the cells of a row that stand below it, each behind its column's name.
func below(header, row []string, terminal int) string {
	var cells []string
	for i, c := range row {
		if c != "" {
			cells = append(cells, strings.ToLower(header[i])+" "+c)
		}
	}

	return "    " + string(folded(strings.Join(cells, "; "), "    ", terminal)) + "\n"
}

// folded is a text of one line that goes on in the next, indented, where the terminal
// ends. It is to stand behind an indent of the same width itself.
func folded(text, indent string, terminal int) paragraphs {
	text = wording.Line(text)
	if len(indent)+utf8.RuneCountInString(text) <= terminal || terminal <= 2*len(indent) {
		return paragraphs(text)
	}
	return paragraphs(strings.ReplaceAll(wrapped(text, terminal-len(indent)), "\n", "\n"+indent))
}

// rowLines is a row in lines, whose cells are no wider than their columns.
func rowLines(row []string, widths []int) [][]string {
	var lines [][]string
	for i, c := range row {
		parts := []string{c}
		if utf8.RuneCountInString(c) > widths[i] {
			parts = strings.Split(wrapped(c, widths[i]), "\n")
		}

		for n, part := range parts {
			if n == len(lines) {
				lines = append(lines, make([]string, len(row)))
			}
			lines[n][i] = part
		}
	}
	return lines
}

// leastColumn is how narrow a column becomes at most.
const leastColumn = 8

// columns is how wide each column of a table is, its header among the rows: as its
// longest cell, or narrower where that doesn't fit into a terminal and this does. The
// widest that can give gives first.
func columns(all [][]string, terminal int) []int {
	widths := make([]int, len(all[0]))
	least := make([]int, len(all[0]))

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

// leastCell is how narrow a cell becomes at most: words stay whole, among them what
// people copy (ids, digests, addresses, names).
func leastCell(c string) int {
	longest := 0
	for word := range strings.FieldsSeq(c) {
		longest = max(longest, utf8.RuneCountInString(word))
	}
	return longest
}
