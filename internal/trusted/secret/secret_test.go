package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/trusted/secret"
)

const hidden = "s3cr3t-value"

// TestNeverShown tries every usual way in which a value ends up in a text, on
// its own and inside of other values.
func TestNeverShown(t *testing.T) {
	v := secret.NewString(hidden)
	nested := struct {
		Name  string
		Value secret.Value
		More  []secret.Value
		Map   map[string]secret.Value
		Ptr   *secret.Value
	}{"n", v, []secret.Value{v}, map[string]secret.Value{"k": v}, &v}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		for _, x := range []any{v, &v, nested, &nested} {
			if out := fmt.Sprintf(verb, x); shows(out) {
				t.Errorf("%s of %T shows it: %s", verb, x, out)
			}
		}
	}
	if out := fmt.Errorf("%w: %v", fmt.Errorf("outer"), nested).Error(); shows(out) {
		t.Errorf("an error shows it: %s", out)
	}
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(handler(&b)).Info("m", "value", v, "nested", nested)
		if shows(b.String()) {
			t.Errorf("the %s log shows it: %s", name, b.String())
		}
	}
	for _, x := range []any{v, nested} {
		if b, err := json.Marshal(x); err == nil || shows(string(b)) {
			t.Errorf("json.Marshal(%T) = %s, %v: want an error", x, b, err)
		}
	}
}

// shows looks for the value as text, in hex and as a list of numbers.
func shows(out string) bool {
	return strings.Contains(out, hidden) || strings.Contains(strings.ToLower(out), fmt.Sprintf("%x", hidden)) ||
		strings.Contains(out, "115 51 99") || strings.Contains(out, "0x73, 0x33")
}

func TestValue(t *testing.T) {
	raw := []byte(hidden)
	v := secret.New(raw)
	raw[0] = 'X'
	if string(v.Reveal()) != hidden {
		t.Error("New kept the caller's bytes")
	}
	if !v.Equal(secret.NewString(hidden)) || v.Equal(secret.NewString(hidden+"x")) || v.Equal(secret.Value{}) {
		t.Error("Equal")
	}
	var zero secret.Value
	if zero.Len() != 0 || zero.Reveal() != nil || !zero.Equal(secret.New(nil)) {
		t.Error("the zero Value is not empty")
	}
}
