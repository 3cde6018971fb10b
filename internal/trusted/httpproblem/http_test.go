package httpproblem_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/httpproblem"
)

func TestNameRequest(t *testing.T) {
	for sent, kept := range map[string]bool{
		"a-decent.one_2": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "two words": false, "line\nbreak": false, "ü": false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header[problem.HeaderRequestID] = []string{sent}
		w := httptest.NewRecorder()
		id := httpproblem.NameRequest(w, r)
		if (id == sent) != kept || !kept && len(id) != 16 {
			t.Errorf("%q became %q", sent, id)
		}
		if got := w.Header().Get(problem.HeaderRequestID); got != id {
			t.Errorf("the reply says %q, the log %q", got, id)
		}
	}
	if a, b := problem.NewRequestID(), problem.NewRequestID(); a == b {
		t.Error("two requests have one name")
	}
}
