package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// NotJSON says why bytes could not be decoded as JSON without quoting any of
// them: a request may hold tokens and sessions, and so may a reply. Keys are
// named, as are the fields of our own that values were meant for.
func NotJSON(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("no JSON from byte %d on", syntax.Offset)
	}

	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		got, _, _ := strings.Cut(kind.Value, " ") // after a blank comes the value
		return fmt.Errorf("the field %q holds a JSON %s, which it can't", kind.Field, got)
	}

	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it ends before the JSON does")
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return fmt.Errorf("the %s is not known", strings.TrimPrefix(err.Error(), "json: unknown "))
	}

	return fmt.Errorf("a value is not what its field holds")
}
