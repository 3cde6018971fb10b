package home

import (
	"context"
	"time"

	"cupel.dev/cupel/api/ident"
)

// providersFile holds the providers that the owner's commands talked to.
const providersFile = "providers.json"

// Provider is what an owner remembers of the manager of another machine. It says
// who is spoken to, and makes nobody trusted: secrets go to attested code alone.
type Provider struct {
	// Certificate is the SHA-256 of the certificate that it showed first; nil where
	// a public authority vouched for its name, and has to do so each time.
	Certificate *ident.Digest `json:"certificate,omitempty"`
	// OperatorKey is the key by which it claims grants.
	OperatorKey ident.KeyHash `json:"operator_key"`
	Since       time.Time     `json:"since"`
}

// Providers are the known ones, by address (HOST:PORT).
type Providers map[string]Provider

// Providers returns the managers of other machines that were spoken to.
func (d *Dir) Providers() (Providers, error) {
	return load[Providers](d, providersFile, "they are pinned again by the next command that talks to them")
}

// UpdateProviders changes them; an error of change leaves them as they were.
func (d *Dir) UpdateProviders(ctx context.Context, change func(Providers) error) error {
	return update(ctx, d, providersFile, d.Providers, change)
}
