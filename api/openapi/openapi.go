package openapi

import _ "embed" // for the documents

// Owners is the document of the CAS's API for owners (package owners has its types).
//
//go:embed owners.yaml
var Owners string

// Instances is the document of the CAS's API for attested instances and for who holds
// grants.
//
//go:embed instances.yaml
var Instances string

// Manager is the document of the operator's manager (package manager has its types).
//
//go:embed manager.yaml
var Manager string
