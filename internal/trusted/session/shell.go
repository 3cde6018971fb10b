package session

import (
	"regexp"
	"strings"
)

var (
	shellAlone    = regexp.MustCompile(`^(?:&&?|\|\|?&?|;;?|[0-9]?<<?<?|[(){}!])$`)
	shellRedirect = regexp.MustCompile(`^(?:[0-9]*|&)(?:>>?|<)(?:&?[A-Za-z0-9_./~$-].*)?$`)
	shellValue    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*\+?=`)
	shellBuiltin  = regexp.MustCompile(`^(?:[.:]|cd|eval|exec|export|for|if|set|source|ulimit|umask|unset|while)$`)
	shellExpands  = regexp.MustCompile("\\$[A-Za-z_({]|`|\\*")
)

// ShellWord is the kind of the first word of a command that only a shell would take for
// another than it is; the program gets it as it stands. It is empty if there is none.
// It is no part of the word itself, which may be a secret.
func ShellWord(command string) string {
	_, words, err := splitCommand(command)
	if err != nil {
		return ""
	}

	for i, word := range words {
		switch {
		case strings.Contains(word, "$$SCONE::"):
		case shellAlone.MatchString(word):
			return word
		case shellRedirect.MatchString(word):
			return strings.TrimLeft(word, "0123456789&")[:1]
		case strings.HasSuffix(word, ";"):
			return ";"
		case i == 0 && shellValue.MatchString(word):
			return "NAME=VALUE"
		case word == "~", strings.HasPrefix(word, "~/"):
			return "~"
		case shellExpands.MatchString(word):
			return shellExpands.FindString(word)[:1]
		}
	}
	switch {
	case escapes(command):
		return `\`
	case len(words) > 0 && shellBuiltin.MatchString(words[0]):
		return words[0]
	}
	return ""
}

// escapes says whether a command has a backslash by which a shell would take the blank or
// the quote behind it for an ordinary character.
func escapes(command string) bool {
	quote := rune(0)  // that is open
	before := rune(0) // the character before c
	for _, c := range command {
		switch {
		case before == '\\' && quote == 0 && strings.ContainsRune(" \t\r\n'\"", c), before == '\\' && quote == '"' && c == '"':
			return true
		case c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		}
		before = c
	}

	return false
}

// commandForms are other forms of a command than words that blanks part.
var commandForms = []struct {
	is    *regexp.Regexp
	named string
}{
	{regexp.MustCompile(`(?s)^\s*(?:\[\s*["']|\[.*\]\s*$|-\s)`), "a list"},
	{regexp.MustCompile(`^\s*(?:(?:CMD|ENTRYPOINT|RUN)\s|(?i:cmd|entrypoint|run)\s+\[)`), "a line of a Dockerfile"},
	{regexp.MustCompile(`^\s*[A-Za-z][A-Za-z0-9_-]*:\s`), "a line of a Procfile or of YAML"},
}

// CommandForm names the form of a command's text that another program would read, where
// its first word can hardly be a program's name. It is empty if there is none.
func CommandForm(command string) string {
	for _, form := range commandForms {
		if form.is.MatchString(command) {
			return form.named
		}
	}

	return ""
}
