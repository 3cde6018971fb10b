package dcap

import "cupel.dev/cupel/api/problem"

// documentKind is what there is to say of one of Intel's signed JSON texts: the rules
// by which it is refused, and its names.
type documentKind struct {
	rule      problem.Rule // what it says
	chain     problem.Rule // the chain of its signer
	revoked   problem.Rule // its signer, in the root's revocation list
	signature problem.Rule
	expired   problem.Rule
	words     string // in messages
	issued    string // in the claims' issue dates
}

var (
	tcbInfoKind = documentKind{
		rule:      ruleTCBInfo,
		chain:     ruleTCBInfoChain,
		revoked:   ruleTCBInfoChainRevoked,
		signature: ruleTCBInfoSignature,
		expired:   ruleTCBInfoExpired,
		words:     "tcb info",
		issued:    "tcb_info",
	}
	qeIdentityKind = documentKind{
		rule:      ruleQEIdentity,
		chain:     ruleQEIdentityChain,
		revoked:   ruleQEIdentityChainRevoked,
		signature: ruleQEIdentitySignature,
		expired:   ruleQEIdentityExpired,
		words:     "qe identity",
		issued:    "qe_identity",
	}
)

// listKind is the same for a revocation list.
type listKind struct {
	rule    problem.Rule
	expired problem.Rule
	words   string
}

var (
	rootListKind = listKind{ruleRootCRL, ruleRootCRLExpired, "root CA's revocation list"}
	pckListKind  = listKind{rulePCKCRL, rulePCKCRLExpired, "PCK revocation list"}
)

// Names of the revocation lists in the claims' issue dates. Of the PCK's there are two,
// one for each authority that issues PCK certificates.
const (
	issuedRootCRL      = "root_crl"
	issuedProcessorCRL = "pck_crl_processor"
	issuedPlatformCRL  = "pck_crl_platform"
)
