package dcap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxJSONDepth = 16

// readExact reads a signed text, one JSON value in UTF-8, into v. It is for
// everything that is signed as JSON, because encoding/json alone gives a text
// readings that its signer didn't mean: it takes a name in another case for a
// field's ("tcbStatuſ" for "tcbStatus"), lets the last of two equal names win,
// and takes null for whatever was there before. Here such texts are refused.
// Names that v doesn't know are allowed, since makers add to their documents.
func readExact(b []byte, v any) error {
	if !utf8.Valid(b) {
		return errors.New("not UTF-8")
	}

	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	r := &exactReader{d: d, fields: map[reflect.Type]map[string]exactField{}}
	if err := r.value(reflect.TypeOf(v), 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the JSON value")
	}

	return json.Unmarshal(b, v)
}

// exactReader walks a JSON text beside the type that it will be read into.
type exactReader struct {
	d      *json.Decoder
	fields map[reflect.Type]map[string]exactField // by folded name
}

type exactField struct {
	name string // exactly
	typ  reflect.Type
}

// value walks one value. Type t is nil for values that nobody reads.
func (r *exactReader) value(t reflect.Type, depth int) error {
	if depth > maxJSONDepth {
		return fmt.Errorf("nested deeper than %d", maxJSONDepth)
	}
	token, err := r.d.Token()
	if err != nil {
		return err
	}

	switch token {
	case nil:
		if t != nil {
			return errors.New("null where a value belongs")
		}
		return nil
	case json.Delim('{'):
		return r.object(t, depth)
	case json.Delim('['):
		return r.array(t, depth)
	}
	return nil
}

func (r *exactReader) object(t reflect.Type, depth int) error {
	fields := r.fieldsOf(t)
	seen := map[string]bool{}
	for r.d.More() {
		token, err := r.d.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string) // the decoder yields strings only where names belong

		folded := fold(name)
		if seen[folded] {
			return fmt.Errorf("name %.60q twice", name)
		}
		seen[folded] = true

		field, known := fields[folded]
		if known && field.name != name {
			return fmt.Errorf("name %.60q, which is not quite %q", name, field.name)
		}
		if err := r.value(field.typ, depth+1); err != nil {
			return fmt.Errorf("%.60q: %w", name, err)
		}
	}
	_, err := r.d.Token() // the closing delimiter
	return err
}

func (r *exactReader) array(t reflect.Type, depth int) error {
	var element reflect.Type
	if t = indirect(t); t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		element = t.Elem()
	}
	for r.d.More() {
		if err := r.value(element, depth+1); err != nil {
			return err
		}
	}
	_, err := r.d.Token()
	return err
}

// fieldsOf returns the fields of struct t, those of embedded structs among
// them, by their folded names in JSON; none for any other type.
func (r *exactReader) fieldsOf(t reflect.Type) map[string]exactField {
	if t = indirect(t); t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	if known, ok := r.fields[t]; ok {
		return known
	}

	out := map[string]exactField{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "" {
			continue
		}
		out[fold(name)] = exactField{name, f.Type}
	}
	r.fields[t] = out
	return out
}

func indirect(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// fold returns the same text for all names that encoding/json takes for equal:
// those that differ by Unicode's simple case folding.
func fold(name string) string {
	return strings.Map(func(c rune) rune {
		least := c
		for next := unicode.SimpleFold(c); next != c; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, name)
}
