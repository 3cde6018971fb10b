package secrets

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// RuleSecretUnknown: a session, or who asks, names a secret that the session does not define.
	// Mend: define it under secrets, or name one that is there.
	RuleSecretUnknown problem.Rule = "secret_unknown"

	// ruleKeyType: a private key is to have a type that can't be generated.
	// Mend: write P-256, P-384 or Ed25519.
	ruleKeyType problem.Rule = "key_type"

	// ruleSecretFormat: a secret is asked for in a format that its kind does not have.
	// Mend: ask for a format of its kind, or name the private-key secret of a certificate in private_key.
	ruleSecretFormat problem.Rule = "secret_format"

	// ruleSecretKind: a secret is of a kind that can't serve as what refers to it.
	// Mend: name a private-key secret as key, and a certificate authority with its key as issuer.
	ruleSecretKind problem.Rule = "secret_kind"

	// ruleSecretValue: the value that was given for a private key is not PEM.
	// Mend: give the key in PEM, as PKCS #8.
	ruleSecretValue problem.Rule = "secret_value"

	// ruleValidFor: the time that a certificate is to be good for can't be read.
	// Mend: write it as in valid_for: 30h.
	ruleValidFor problem.Rule = "valid_for"
)
