package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind sorts errors by what the caller can do about them.
type Kind string

// Kinds of errors.
const (
	Invalid         Kind = "invalid"         // the request is wrong: mend it
	NotFound        Kind = "not_found"       // no such thing
	Conflict        Kind = "conflict"        // the state is another than the caller thought
	Unauthenticated Kind = "unauthenticated" // the caller did not prove who or what it is
	Denied          Kind = "denied"          // the caller is known and may not
	Unavailable     Kind = "unavailable"     // try again later
	Internal        Kind = "internal"        // our fault
)

// Rule names what refused, for programs: short, stable, snake_case, as in "measurement" or
// "lease_held". Each is a constant beside who raises it; docs/errors.md lists all of them.
// A caller that does something else for one rule than for another compares with such a
// constant (see [Is]), never with a text.
type Rule string

// Error says which rule refused, what it expected and met, and how to mend it.
type Error struct {
	Kind      Kind     `json:"kind"`
	Rule      Rule     `json:"rule"`
	Expected  string   `json:"expected,omitempty"` // for people
	Actual    string   `json:"actual,omitempty"`
	Mend      string   `json:"mend,omitempty"` // what to do, in the imperative
	RequestID string   `json:"request_id,omitempty"`
	Msg       []string `json:"msg,omitempty"` // SCONE's message chain, on CAS paths
	Source    Source   `json:"source,omitempty"`
	Cause     error    `json:"-"`
}

// Source is whose word a problem is, where a command repeats what somebody said whom
// nobody has to trust: they may advise anything. Empty: the command's own, or of somebody
// who proved what they are. It is set by who reads an answer, never by who gives it.
type Source string

// Sources that are marked.
const (
	Operator      Source = "operator"
	UnattestedCAS Source = "unattested_cas"
)

// Says begins a text of the source's: empty for one that isn't marked.
func (s Source) Says() string {
	switch s {
	case "":
		return ""
	case Operator:
		return "the operator says: "
	case UnattestedCAS:
		return "a CAS that isn't attested says: "
	}
	return "somebody else says: "
}

// New returns an Error whose Actual is the formatted text.
func New(kind Kind, rule Rule, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{
		Kind:   kind,
		Rule:   rule,
		Actual: err.Error(),
		Cause:  errors.Unwrap(err),
	}
}

// Want sets what was expected and returns e.
func (e *Error) Want(format string, args ...any) *Error {
	e.Expected = fmt.Sprintf(format, args...)
	return e
}

// Fix sets the mend and returns e.
func (e *Error) Fix(format string, args ...any) *Error {
	e.Mend = fmt.Sprintf(format, args...)
	return e
}

// Error is one line: whose word it is, rule, actual, expected, mend.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Source.Says() + string(e.Rule))

	if e.Actual != "" {
		b.WriteString(": " + e.Actual)
	}
	if e.Expected != "" {
		b.WriteString(" (expected " + e.Expected + ")")
	}
	if e.Mend != "" {
		b.WriteString("; " + e.Mend)
	}

	return b.String()
}

func (e *Error) Unwrap() error { return e.Cause }

// Count says n of something in words: 1 instance, 2 instances.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// Duration says in words how long something is: 3 minutes, 1 hour 30 minutes, 500 ms.
// What is longer than a minute has no parts of a second.
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case d < time.Second:
		return strconv.FormatFloat(float64(d.Round(10*time.Microsecond))/float64(time.Millisecond), 'f', -1, 64) + " ms"
	case d < time.Minute && d%time.Second != 0:
		return strconv.FormatFloat(d.Round(10*time.Millisecond).Seconds(), 'f', -1, 64) + " seconds"
	}

	d = d.Round(time.Second)
	var out []string
	for _, part := range []struct {
		n    time.Duration
		unit string
	}{{d / (24 * time.Hour), "day"}, {d / time.Hour % 24, "hour"}, {d / time.Minute % 60, "minute"}, {d / time.Second % 60, "second"}} {
		if part.n > 0 {
			out = append(out, Count(int(part.n), part.unit))
		}
	}

	return strings.Join(out, " ")
}

// From returns the Error in err's chain, or an Internal one that wraps err; nil
// for no error.
func From(err error) *Error {
	if err == nil {
		return nil
	}

	if p, ok := errors.AsType[*Error](err); ok {
		return p
	}

	return &Error{
		Kind:   Internal,
		Rule:   RuleInternal,
		Actual: err.Error(),
		Cause:  err,
	}
}

// Is reports whether err carries an Error of one of the rules.
func Is(err error, rules ...Rule) bool {
	p, ok := errors.AsType[*Error](err)
	return ok && slices.Contains(rules, p.Rule)
}

// KindOf returns the kind of err: Internal where it carries none, empty for no
// error.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	return From(err).Kind
}

// Status is the HTTP status of a kind (RFC 9110, section 15).
func (k Kind) Status() int {
	switch k {
	case Invalid:
		return 400
	case NotFound:
		return 404
	case Conflict:
		return 409
	case Unauthenticated:
		return 401
	case Denied:
		return 403
	case Unavailable:
		return 503
	}
	return 500
}

// ExitCode is the exit code of a kind: 2 to 8; 1 is kept for everything else.
func (k Kind) ExitCode() int {
	switch k {
	case Invalid:
		return 2
	case NotFound:
		return 3
	case Conflict:
		return 4
	case Unauthenticated:
		return 5
	case Denied:
		return 6
	case Unavailable:
		return 7
	}
	return 8
}

// Read turns an error reply back into an Error; a body that is none becomes
// an Internal one that doesn't quote it: it may repeat what was sent.
func Read(status int, body []byte) *Error {
	var p Error
	if json.Unmarshal(body, &p) == nil && p.Kind != "" {
		p.Source = ""
		return &p
	}

	return New(Internal, RuleReply, "status %d, with %d bytes that are no answer of Cupel's", status, len(body)).
		Fix("check that nothing else answers at that address, such as a proxy")
}
