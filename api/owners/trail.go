package owners

import (
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// Refusals are releases of a session that were refused, the latest first: at most
// 100, equal ones counted together. What an instance only has to wait for is none.
type Refusals struct {
	Version  int       `json:"version"`
	Refusals []Refusal `json:"refusals"`
}

// Refusal is one or more releases that were refused for the same reason.
type Refusal struct {
	Service  ident.ServiceName `json:"service"`
	Rule     problem.Rule      `json:"rule"`
	Actual   string            `json:"actual,omitempty"`
	Expected string            `json:"expected,omitempty"`
	First    time.Time         `json:"first"`
	Last     time.Time         `json:"last"`
	Count    int               `json:"count"`
}
