package problem

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestErrorsQuoteNoBytes(t *testing.T) {
	type body struct {
		Name string    `json:"name"`
		Size int       `json:"size"`
		At   time.Time `json:"at"`
	}
	for text, want := range map[string]string{
		`{"name": 8675309}`:    `the field "name" holds a JSON number`,
		`{"size": "8675309"}`:  `the field "size" holds a JSON string`,
		`{"size": 8675309.5}`:  `the field "size" holds a JSON number`,
		`{"at": "8675309"}`:    "a value is not what its field holds",
		`{"name": 'x8675309`:   "no JSON from byte",
		`{"name": "8675309`:    "it ends before the JSON does",
		`{"other": "8675309"}`: `the field "other" is not known`,
	} {
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		var b body
		err := d.Decode(&b)
		if err == nil {
			err = d.Decode(&b)
		}
		if err == nil {
			t.Errorf("%s: accepted", text)
			continue
		}
		if got := NotJSON(err).Error(); !strings.Contains(got, want) || strings.Contains(got, "8675309") {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if p := Read(502, []byte("<html>8675309</html>")); strings.Contains(p.Error(), "8675309") || !strings.Contains(p.Error(), "status 502") {
		t.Errorf("%v", p)
	}
}
