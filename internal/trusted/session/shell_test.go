package session

import "testing"

func TestShellWord(t *testing.T) {
	for command, want := range map[string]string{
		"cd /x && python3 app.py":                      "&&",
		"python3 app.py || true":                       "||",
		"python3 app.py | cat":                         "|",
		"python3 app.py &":                             "&",
		"python3 a.py; python3 b.py":                   ";",
		"python3 a.py ; python3 b.py":                  ";",
		"python3 app.py > /tmp/log 2>&1":               ">",
		"python3 app.py >>/tmp/log":                    ">",
		"python3 app.py 2>/dev/null":                   ">",
		"python3 app.py < /tmp/in":                     "<",
		"TOKEN=hunter2 python3 app.py":                 "NAME=VALUE",
		"~/app":                                        "~",
		"python3 *.py":                                 "*",
		"python3 app.py $HOME":                         "$",
		"python3 app.py ${HOME}/x":                     "$",
		"python3 app.py $(date)":                       "$",
		"python3 app.py `date`":                        "`",
		"python3 /home/client-app/repo/app.py":         "",
		"sh -c 'cd /x && exec python3 app.py > log'":   "",
		"python3 app.py --name=value A=1":              "",
		"app --glob '*' --sum \"a|b\" --price '$5'":    "",
		"app https://example.org/?a=1&b=2 a;b x>y ~me": "",
		"app --cost 5$ --key $$SCONE::key$$":           "",
		"app 'not closed":                              "",
	} {
		if got := ShellWord(command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}
