package session

import "cupel.dev/cupel/api/problem"

// Rules under which a session's text is refused, beside those of package problem.
const (
	// ruleUnknownKey: a mapping of the session has a key that the language doesn't know.
	// Mend: correct its spelling, or remove the line.
	ruleUnknownKey problem.Rule = "session_unknown_key"

	// ruleUnsupported: a line is known to the SCONE language, and this release doesn't support it.
	// Mend: remove it, or write what the message names in its place.
	ruleUnsupported problem.Rule = "session_unsupported"

	// ruleField: a value is missing, or is none that its key can have.
	// Mend: correct the line that is named, as the message says.
	ruleField problem.Rule = "session_field"

	// ruleReference: a line names a secret, volume or format that the session hasn't got.
	// Mend: define it, or name one that is there.
	ruleReference problem.Rule = "session_reference"

	// ruleVariable: a template variable has no value, or one that can't stand in a session.
	// Mend: give it with -e NAME=VALUE, in the form that the message names.
	ruleVariable problem.Rule = "session_variable"
)
