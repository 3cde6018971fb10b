package cli

import "cupel.dev/cupel/internal/trusted/session"

// warnShell warns of a command that only a shell would understand: none reads it. The
// command is taken, since the program may want such words.
func (g *globals) warnShell(command string) {
	if word := session.ShellWord(command); word != "" {
		g.warnf("warning: the command has %s as for a shell, and no shell reads it: the program gets it as it stands. "+
			"Where a shell is meant, give --command \"sh -c '…'\"; for a variable of the app's, --env NAME=VALUE", word)
	}
}
