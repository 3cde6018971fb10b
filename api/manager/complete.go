package manager

// named is what has names that commands are made of, for people to type.
type named interface{ names() []string }

// needing is what is of no use without some of its fields, and says which is missing.
type needing interface{ lacks() string }

type field struct {
	name  string
	empty bool
}

// lacking is the first of some fields that is empty; none: "".
func lacking(fields ...field) string {
	for _, f := range fields {
		if f.empty {
			return f.name
		}
	}
	return ""
}

// BadName returns the first name in a part of an answer that no app or instance can
// have; false if all of them can be.
func BadName(part any) (name string, bad bool) {
	is, ok := part.(named)
	if !ok {
		return "", false
	}

	for _, name := range is.names() {
		if name != "" && !ValidName(name) {
			return name, true
		}
	}
	return "", false
}

// Missing returns the name of the first field that a part of an answer is of no use
// without, and that is empty; "" if there is none.
func Missing(part any) string {
	if is, ok := part.(needing); ok {
		return is.lacks()
	}
	return ""
}
