package problem_test

import (
	"encoding/json"
	"fmt"

	"cupel.dev/cupel/api/problem"
)

// ruleShelf is a rule of the example's own.
const ruleShelf problem.Rule = "shelf"

// A refusal says what it met, what it expected, and how to mend it. Callers compare its rule
// or its kind, and never its text.
func Example() {
	err := fmt.Errorf("fetch the book: %w", problem.New(problem.NotFound, ruleShelf, "shelf %d is empty", 7).
		Want("a shelf from 1 to 6").
		Fix("ask for another shelf"))

	p := problem.From(err)
	fmt.Println(p)
	fmt.Println(problem.Is(err, ruleShelf), problem.KindOf(err), p.Kind.Status(), p.Kind.ExitCode())

	body, _ := json.Marshal(p)
	fmt.Println(string(body))
	fmt.Println(problem.Read(404, body).Mend)
	// Output:
	// shelf: shelf 7 is empty (expected a shelf from 1 to 6); ask for another shelf
	// true not_found 404 3
	// {"kind":"not_found","rule":"shelf","expected":"a shelf from 1 to 6","actual":"shelf 7 is empty","mend":"ask for another shelf"}
	// ask for another shelf
}
