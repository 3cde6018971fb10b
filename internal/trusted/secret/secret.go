package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// Value holds secret bytes. The zero Value is empty.
type Value struct {
	_ [0]func() // not comparable
	b *[]byte   // behind a pointer: %v of an enclosing struct can't reach it
}

const redacted = "[secret]"

// New keeps a copy of b.
func New(b []byte) Value {
	c := append([]byte(nil), b...)
	return Value{b: &c}
}

// NewString keeps s.
func NewString(s string) Value { c := []byte(s); return Value{b: &c} }

// Reveal returns the bytes; the caller must not change them.
func (v Value) Reveal() []byte {
	if v.b == nil {
		return nil
	}
	return *v.b
}

// Len is the number of bytes.
func (v Value) Len() int { return len(v.Reveal()) }

// Equal compares in constant time (for equal lengths).
func (v Value) Equal(o Value) bool { return subtle.ConstantTimeCompare(v.Reveal(), o.Reveal()) == 1 }

func (Value) String() string               { return redacted }
func (Value) GoString() string             { return redacted }
func (Value) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(redacted)) }
func (Value) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Value) MarshalJSON() ([]byte, error) { return nil, errMarshal }
func (Value) MarshalText() ([]byte, error) { return nil, errMarshal }

var errMarshal = errors.New("a secret can't be marshalled: reveal it where that is meant")
