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

// TestBadReplyNamesTheField: whose answer it is, which field, and what belongs there; and
// not what stands there.
func TestBadReplyNamesTheField(t *testing.T) {
	type step struct {
		Ended time.Time `json:"ended"`
		Port  uint16    `json:"port"`
		Done  *bool     `json:"done,omitempty"`
	}
	type body struct {
		Name  string          `json:"name"`
		Steps []step          `json:"steps"`
		Known map[string]step `json:"known"`
	}
	for text, want := range map[string][2]string{
		`{"steps": [{}, {"ended": "8675309"}]}`: {`the answer of the manager: the field "steps.1.ended" holds a value that it can't`, "a time as in 2026-01-31T12:00:00Z"},
		`{"known": {"x": {"ended": 8675309}}}`:  {`the field "known.*.ended"`, "a time"},
		`{"steps": [{"port": -8675309}]}`:       {`the field "steps.0.port"`, "a whole number from 0 up, of at most 16 bits"},
		`{"steps": [{"done": 8675309}]}`:        {`the field "steps.0.done"`, "true or false"},
		`{"steps": "8675309"}`:                  {`the field "steps"`, "a list"},
		`{"name": 8675309}`:                     {`the field "name"`, "a string"},
		`[8675309]`:                             {"the answer of the manager: ", "JSON"},
		`{"name": 'x8675309`:                    {"no JSON from byte", "JSON"},
	} {
		var b body
		err := json.Unmarshal([]byte(text), &b)
		if err == nil {
			t.Errorf("%s: accepted", text)
			continue
		}
		p := BadReply("the manager", []byte(text), &b, err)
		if p.Kind != Unavailable || !strings.Contains(p.Actual, want[0]) || !strings.Contains(p.Expected, want[1]) || strings.Contains(p.Error(), "8675309") {
			t.Errorf("%s: %s: %v, want %v", text, p.Kind, p, want)
		}
	}
}
