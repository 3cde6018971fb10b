package owner

import (
	"regexp"
	"slices"
	"strings"

	"cupel.dev/cupel/internal/trusted/problem"
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
		return problem.New(problem.Invalid, "template_input", "a variable of the app's has a name that is none").
			Want("1 to 100 of A-Z a-z 0-9 _, the first no digit").Fix("give --env NAME=VALUE or --secret NAME=@FILE")
	case slices.Contains(steeringNames, name), slices.ContainsFunc(steeringPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }):
		return problem.New(problem.Denied, "template_input", "the variable %s changes what programs do", name).
			Want("none of %s, and none that begins with %s", strings.Join(steeringNames, " "), strings.Join(steeringPrefixes, " or ")).
			Fix("give your app's variable another name, or have --command say it")
	}
	return nil
}

// checkVariables refuses names that can't be, or that come twice.
func checkVariables(lists ...[]string) error {
	seen := map[string]bool{}
	for _, name := range slices.Concat(lists...) {
		if err := CheckVariable(name); err != nil {
			return err
		}
		if seen[name] {
			return problem.New(problem.Invalid, "template_input", "the variable %s is given twice", name).Fix("give it once, with --env or with --secret")
		}
		seen[name] = true
	}
	return nil
}
