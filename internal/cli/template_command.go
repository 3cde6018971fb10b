package cli

import (
	"cupel.dev/cupel/internal/trusted/session"
)

// warnCommand warns of a command that is written for another reader: no shell reads it,
// and it is no list. It is taken, since the program may want such words.
func (g *globals) warnCommand(command string) {
	word := session.ShellWord(command)
	switch form := session.CommandForm(command); {
	case form != "":
		g.warnf("warning: the command is written as %s, and is taken as words that blanks part, of which the first is the program's name. "+
			"Give the line as it runs, with quotes around a word that has blanks: --command \"python3 'my apps/app.py'\"", form)
	case word == `\`:
		g.warnf("warning: the command has \\ before a blank or a quote as for a shell, and no shell reads it: a backslash is an ordinary character, " +
			"and the blank parts two words. Quotes keep blanks together: --command \"python3 'my apps/app.py'\"")
	case word != "":
		g.warnf("warning: the command has %s as for a shell, and no shell reads it: the program gets it as it stands. "+
			"Where a shell is meant, give --command \"sh -c '…'\"; for a variable of the app's, --env NAME=VALUE", word)
	}
}
