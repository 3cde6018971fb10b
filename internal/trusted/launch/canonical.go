package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	maxSpec  = 1 << 20 // bytes of a runtime spec or image config
	maxDepth = 32      // nesting of either
)

// parseObject reads one JSON object into maps, slices, strings, bools, nil and
// json.Number. It is stricter than encoding/json where two readers of the same
// bytes could otherwise see different things: duplicate keys, invalid UTF-8,
// anything after the object and numbers that are not plain 64-bit integers are
// refused. Keys keep their case: "Hooks" is not "hooks" here, so it is
// measured, although the runtime would read it as such.
func parseObject(b []byte) (map[string]any, error) {
	if len(b) > maxSpec {
		return nil, fmt.Errorf("%d bytes: want at most %d", len(b), maxSpec)
	}
	if !utf8.Valid(b) {
		return nil, errors.New("not valid UTF-8")
	}

	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := parseValue(d, 0)
	if err != nil {
		return nil, err
	}

	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the JSON object")
	}

	o, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("want a JSON object")
	}
	return o, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	t, err := d.Token()
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}

	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return parseMembers(d, depth)
		}
		return parseElements(d, depth)
	case json.Number:
		if _, err := strconv.ParseInt(t.String(), 10, 64); err != nil || t == "-0" {
			return nil, fmt.Errorf("number %s: want a 64-bit integer", t)
		}
	}
	return t, nil
}

func parseMembers(d *json.Decoder, depth int) (any, error) {
	o := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}

		key := t.(string) // the decoder guarantees it between members
		if _, twice := o[key]; twice {
			return nil, fmt.Errorf("key %q appears twice", key)
		}
		if o[key], err = parseValue(d, depth+1); err != nil {
			return nil, err
		}
	}

	_, err := d.Token()
	return o, err
}

func parseElements(d *json.Decoder, depth int) (any, error) {
	a := []any{}
	for d.More() {
		v, err := parseValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		a = append(a, v)
	}

	_, err := d.Token()
	return a, err
}

// canonical appends the one encoding of a parsed value: keys sorted by bytes,
// no white space, strings as encoding/json writes them without HTML escapes.
func canonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(canonicalString(b, k), ':')
			b = canonical(b, v[k])
		}
		return append(b, '}')
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = canonical(b, e)
		}
		return append(b, ']')
	case string:
		return canonicalString(b, v)
	case json.Number:
		return append(b, v...)
	case bool:
		return strconv.AppendBool(b, v)
	}
	return append(b, "null"...)
}

func canonicalString(b []byte, s string) []byte {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}
