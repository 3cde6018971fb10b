package template

import (
	"slices"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// CheckSessionName refuses a name that no certificate of the session's can hold: each
// one names its instance as cupel://SESSION/SERVICE/INSTANCE, and there the first
// element stands where a host does. Sessions that have such a name can still be read
// and removed.
func CheckSessionName(name ident.SessionName) error {
	host, _, _ := strings.Cut(string(name), "/")
	if !slices.Contains(strings.Split(host, "."), "") {
		return nil
	}

	return problem.New(problem.Invalid, problem.RuleSessionName, "the session's name is %q, and its certificates can't hold it: a dot is at the beginning or the end of %q, or two are side by side", name, host).
		Want("as the first element one of A-Z a-z 0-9 _ - . ~ in which each dot is between two other characters, such as my-app or my.app").
		Fix("create the session under another name, with --name")
}

// CheckNewSessionName refuses, beside what [CheckSessionName] does, a name that commands
// would take for a flag. Sessions that have one are used on.
func CheckNewSessionName(name ident.SessionName) error {
	if !strings.HasPrefix(string(name), "-") {
		return CheckSessionName(name)
	}

	return problem.New(problem.Invalid, problem.RuleSessionName, "the session's name is %q: it begins with -, as flags do, so that no command takes it as a name", name).
		Want("a name whose first character is one of A-Z a-z 0-9 _ . ~").
		Fix("create the session under another name, with --name")
}
