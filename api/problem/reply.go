package problem

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// BadReply is the problem of an answer that could not be decoded into v, a pointer: err
// is the decoder's word. It names the field and what belongs there, and quotes nothing.
// That an answer is so is no fault of who asked, nor of this program.
func BadReply(from string, body []byte, v any, err error) *Error {
	p := New(Unavailable, RuleReply, "the answer of %s: %w", from, NotJSON(err)).
		Want("JSON, as the API of %s describes it", from).
		Fix("check that %s is of this release, and that nothing else answers in its place, such as a proxy; else ask whoever runs it", from)

	if _, syntax := errors.AsType[*json.SyntaxError](err); syntax {
		return p
	}

	if field, want, found := misfit(body, reflect.TypeOf(v).Elem()); found && field != "" {
		p.Actual = fmt.Sprintf("the answer of %s: the field %q holds a value that it can't", from, field)

		return p.Want("%s", want)
	}
	return p
}

// misfit finds the field whose value a type can't hold, by its path, and what belongs
// there.
func misfit(raw []byte, t reflect.Type) (path, want string, found bool) {
	if json.Unmarshal(raw, reflect.New(t).Interface()) == nil {
		return "", "", false
	}

	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}

	for _, p := range parts(raw, t) {
		if inner, want, found := misfit(p.raw, p.holds); found {
			return strings.TrimSuffix(p.name+"."+inner, "."), want, true
		}
	}

	return "", belongs(t), true
}

// part is a value within another, and the type that has to hold it.
type part struct {
	name  string
	raw   []byte
	holds reflect.Type
}

// parts are the values within one that is of the form of its type; none: it isn't.
func parts(raw []byte, t reflect.Type) []part {
	var fields map[string]json.RawMessage
	var items []json.RawMessage
	var out []part

	switch {
	case readsItself(t):
	case t.Kind() == reflect.Struct && json.Unmarshal(raw, &fields) == nil:
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if value, there := fields[name]; there {
				out = append(out, part{name, value, t.Field(i).Type})
			}
		}
	case t.Kind() == reflect.Map && json.Unmarshal(raw, &fields) == nil:
		for _, value := range fields { // a key may be anything: it isn't named
			out = append(out, part{"*", value, t.Elem()})
		}
	case t.Kind() == reflect.Slice && json.Unmarshal(raw, &items) == nil:
		for i, value := range items {
			out = append(out, part{strconv.Itoa(i), value, t.Elem()})
		}
	}

	return out
}

// readsItself reports whether a type has a form of its own in JSON.
func readsItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// belongs says what a field of the type holds.
func belongs(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "a time as in 2026-01-31T12:00:00Z"
	case readsItself(t) && t.Kind() == reflect.Array && t.Elem().Kind() == reflect.Uint8:
		return fmt.Sprintf("%d hex digits", 2*t.Len())
	case readsItself(t):
		return "a value of its own form"
	}

	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 up, of at most %d bits", t.Bits())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number of at most %d bits", t.Bits())
	case reflect.Slice, reflect.Array:
		return "a list"
	default:
		return "an object"
	}
}
