package openapi_test

import (
	"fmt"
	"strings"

	"cupel.dev/cupel/api/openapi"
)

func Example() {
	for _, document := range []string{openapi.Owners, openapi.Instances, openapi.Manager} {
		first, _, _ := strings.Cut(document, "\n")
		fmt.Println(first)
	}
	// Output:
	// openapi: 3.0.3
	// openapi: 3.0.3
	// openapi: 3.0.3
}
