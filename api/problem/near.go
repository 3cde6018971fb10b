package problem

import "strings"

// Nearest returns the one of known that a person who typed name most likely meant;
// empty if none is near. A third of the letters may be wrong, and no more than three. Of
// several that are as near it is the one that begins most alike, whatever their order.
func Nearest(name string, known []string) string {
	name = strings.ToLower(name)
	best := ""
	least := min(3, len(name)/3) + 1 // letters that are wrong in the best one
	most := 0                        // letters that it begins with alike

	for _, k := range known {
		lower := strings.ToLower(k)
		d := distance(name, lower)
		alike := beginning(name, lower)
		if d < least || d == least && best != "" && (alike > most || alike == most && k < best) {
			best, least, most = k, d, alike
		}
	}

	return best
}

// beginning is how many bytes two names have in common at their beginning.
func beginning(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// distance is how many letters have to be put in, left out, changed or exchanged with
// their neighbour (optimal string alignment).
func distance(a, b string) int {
	const longest = 100 // of what is compared: names are shorter
	a = a[:min(longest, len(a))]
	b = b[:min(longest, len(b))]

	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}

	for j := range rows[0] {
		rows[0][j] = j
	}

	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			changed := 1
			if a[i-1] == b[j-1] {
				changed = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+changed)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}

	return rows[len(a)][len(b)]
}
