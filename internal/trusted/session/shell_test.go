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
		`python3 /repo/my\ apps/x.py`:                  `\`,
		`python3 app.py say \"hi\"`:                    `\`,
		`python3 app.py "say \"hi\""`:                  `\`,
		"python3 app.py \\\n  --port 8080":             `\`,
		`app --match \d+ --folder C:\x 'a\ b' 'c\'`:    "",
		`app "a\ b" "it's \ x"`:                        "",
		"exec python3 app.py":                          "exec",
		"cd /home/client-app/repo":                     "cd",
	} {
		if got := ShellWord(command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

func TestCommandForm(t *testing.T) {
	for command, want := range map[string]string{
		`["python3", "app.py"]`:                "a list",
		`[ 'python3', 'app.py' ]`:              "a list",
		`[python3, app.py]`:                    "a list",
		"- python3\n- app.py":                  "a list",
		`CMD ["python3", "app.py"]`:            "a line of a Dockerfile",
		`ENTRYPOINT ["python3"]`:               "a line of a Dockerfile",
		`cmd [ "python3" ]`:                    "a line of a Dockerfile",
		"CMD python3 app.py":                   "a line of a Dockerfile",
		"web: python3 app.py":                  "a line of a Procfile or of YAML",
		`command: ["python3", "app.py"]`:       "a line of a Procfile or of YAML",
		"python3 /home/client-app/repo/app.py": "",
		`python3 app.py ["a", "b"] CMD x: y`:   "",
		"run app.py":                           "",
		"/usr/bin/cmd: x":                      "",
		"sh -c 'exec [ x ]'":                   "",
	} {
		if got := CommandForm(command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}
