package client

import (
	"cupel.dev/cupel/internal/trusted/appraise"
	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/cas/audit"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/release"
)

// Names for what this package takes and returns, for users outside the module.
type (
	// Error is every refusal: rule, expected, actual, mend.
	Error = problem.Error
	// Session is one version of a session.
	Session = api.Session
	// Created answers an upload.
	Created = api.Created
	// Value is a public secret.
	Value = api.Value
	// Instance is an attested instance.
	Instance = api.Instance
	// Entry is one entry of the audit log.
	Entry = audit.Entry
	// Head is a signed end of the audit log.
	Head = release.SignedHead
	// Identity is one accepted code identity.
	Identity = appraise.Identity
	// Signer accepts what a key signed.
	Signer = appraise.Signer
	// Measurement is an MRENCLAVE or MRSIGNER.
	Measurement = ident.Measurement
	// Digest is a SHA-256.
	Digest = ident.Digest
	// SessionName names a session.
	SessionName = ident.SessionName
)
