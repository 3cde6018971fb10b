package template

import (
	"regexp"
	"slices"
	"strings"

	"cupel.dev/cupel/api/problem"
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,99}$`)

// These change what programs do, whichever program it is: the loader's and the C
// library's, those of shells and of git, and those that Cupel reads itself. An
// owner who is talked into one would run other code than they vouched for. Those of a
// language's interpreter (PYTHONPATH, NODE_OPTIONS) and HOME are settings of the app's
// own: they lead to the measured image and to what the owner pushed.
var (
	steeringPrefixes = []string{"LD_", "GIT_", "CUPEL_", "SCONE_"}
	steeringNames    = []string{"PATH", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", "IFS", "ENV", "BASH_ENV", "SHELLOPTS", "BASHOPTS", "PS4"}
)

// CheckVariable refuses the name of a variable that the app can't have.
func CheckVariable(name string) error {
	switch {
	case !variableName.MatchString(name):
		return problem.New(problem.Invalid, problem.RuleTemplateInput, "a variable of the app's has a name that is none").
			Want("1 to 100 of A-Z a-z 0-9 _, the first no digit").Fix("give --env NAME=VALUE or --secret NAME=@FILE")
	case slices.Contains(steeringNames, name), slices.ContainsFunc(steeringPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }):
		return problem.New(problem.Denied, problem.RuleTemplateInput, "the variable %s changes what programs do", name).
			Want("none of %s, and none that begins with %s", strings.Join(steeringNames, " "), strings.Join(steeringPrefixes, " or ")).
			Fix("give your app's variable another name, or have --command say it")
	}
	return nil
}

// maxVariable is how long NAME=VALUE of a variable can be: the kernel takes 128 KiB with
// the zero behind it (MAX_ARG_STRLEN in execve(2)). All of them together fit into what it
// takes by far, as the whole session does ([session.MaxSize]).
const maxVariable = 128<<10 - 1

// CheckVariableSize refuses a value that no program can be started with as this variable.
func CheckVariableSize(name string, size int) error {
	if len(name)+len("=")+size <= maxVariable {
		return nil
	}

	return problem.New(problem.Invalid, problem.RuleSessionValue, "the value of the variable %s has %d bytes, and no program can be started with it", name, size).
		Want("at most %d bytes for this one: the kernel takes 128 KiB for NAME=VALUE, and a session has 1 MiB for all", maxVariable-len(name)-len("=")).
		Fix("give your app a smaller value, such as the key alone that opens a file in its repository or on its volume")
}

// checkVariables refuses names that can't be, or that come twice.
func checkVariables(lists ...[]string) error {
	seen := map[string]bool{}
	for _, name := range slices.Concat(lists...) {
		if err := CheckVariable(name); err != nil {
			return err
		}

		if seen[name] {
			return problem.New(problem.Invalid, problem.RuleTemplateInput, "the variable %s is given twice", name).Fix("give it once, with --env or with --secret")
		}

		seen[name] = true
	}

	return nil
}
