package evidence

import (
	"fmt"
	"strings"

	"cupel.dev/cupel/api/ident"
)

// CodeIdentity is one accepted code identity: within it, all that is set must hold;
// at least one of Measurements and Signer must be set.
type CodeIdentity struct {
	Measurements []ident.Measurement // any
	Signer       *Signer
}

// Signer accepts whatever a key signed, within versions.
type Signer struct {
	MRSigner  ident.Measurement
	ProductID uint16
	SVN       *uint16 // exact; excludes SVNMin and SVNMax
	SVNMin    *uint16
	SVNMax    *uint16
}

func (id CodeIdentity) String() string {
	var parts []string
	if len(id.Measurements) > 0 {
		parts = append(parts, "measurement "+AnyOf(id.Measurements))
	}

	if s := id.Signer; s != nil {
		parts = append(parts, fmt.Sprintf("signer %s, product %d, version %s", s.MRSigner, s.ProductID, s.Versions()))
	}

	return strings.Join(parts, " and ")
}

// AnyOf says in words that any of the measurements is accepted.
func AnyOf(ms []ident.Measurement) string {
	var out []string
	for _, m := range ms {
		out = append(out, m.String())
	}

	return strings.Join(out, " or ")
}

// Versions says in words which versions s accepts.
func (s *Signer) Versions() string {
	switch {
	case s.SVN != nil:
		return fmt.Sprintf("exactly %d", *s.SVN)
	case s.SVNMin != nil && s.SVNMax != nil:
		return fmt.Sprintf("%d to %d", *s.SVNMin, *s.SVNMax)
	case s.SVNMin != nil:
		return fmt.Sprintf("at least %d", *s.SVNMin)
	case s.SVNMax != nil:
		return fmt.Sprintf("at most %d", *s.SVNMax)
	}
	return "any"
}
