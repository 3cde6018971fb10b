package dcap

import (
	"cupel.dev/cupel/api/problem"
)

// Rules of the quote and of what it carries.
const (
	// ruleQuoteFormat: the bytes are no SGX quote, or there are more or fewer of them than it says.
	// Mend: take a fresh quote and hand it on byte for byte.
	ruleQuoteFormat problem.Rule = "quote_format"

	// ruleQuoteVersion: the quote is of another version than 3.
	// Mend: configure the platform to make version 3 quotes with an ECDSA key.
	ruleQuoteVersion problem.Rule = "quote_version"

	// ruleQuoteSignature: the quote's signature doesn't match its body.
	// Mend: take a fresh quote; if it happens again, the quote is changed on its way.
	ruleQuoteSignature problem.Rule = "quote_signature"

	// ruleCertificationData: the quote doesn't carry the chain of certificates of its platform.
	// Mend: configure the platform's quote provider library so that quotes carry the PCK certificate chain.
	ruleCertificationData problem.Rule = "certification_data"

	// ruleQEVendor: the quote comes from a quoting enclave that is not Intel's.
	// Mend: use the quoting enclave that Intel distributes.
	ruleQEVendor problem.Rule = "qe_vendor"

	// ruleQEReportSignature: the platform's certified key didn't sign the report of the quoting enclave.
	// Mend: take a fresh quote; if it happens again, do not use the platform.
	ruleQEReportSignature problem.Rule = "qe_report_signature"

	// ruleQEReportData: the quoting enclave vouched for another key than the one that signed the quote.
	// Mend: take a fresh quote; if it happens again, do not use the platform.
	ruleQEReportData problem.Rule = "qe_report_data"
)

// Rules of the platform's certificates.
const (
	// rulePCKChain: the chain of the platform's certificate (PCK) doesn't hold: its order, a name, a date, an extension or a signature.
	// Mend: read what is wrong with it; fetch the platform's certificates again, and check the clock of the machine that verifies.
	rulePCKChain problem.Rule = "pck_chain"

	// rulePCKExtension: the platform's certificate doesn't say what Intel certifies about a platform, or not in its form.
	// Mend: fetch the platform's certificate again from Intel.
	rulePCKExtension problem.Rule = "pck_extension"

	// ruleUnknownRoot: the chain of the platform's certificate ends in a root that the verifier was not given.
	// Mend: use a platform whose maker's root is known; nobody else's evidence is believed.
	ruleUnknownRoot problem.Rule = "unknown_root"

	// rulePCKCARevoked: the authority that issued the platform's certificate was revoked.
	// Mend: do not use the platform: its maker withdrew the key. Kind: unauthenticated.
	rulePCKCARevoked problem.Rule = "pck_ca_revoked"

	// rulePCKRevoked: the platform's certificate was revoked.
	// Mend: do not use the platform: its maker withdrew the key. Kind: unauthenticated.
	rulePCKRevoked problem.Rule = "pck_revoked"
)

// Rules of the collateral: revocation lists, TCB info, and the quoting enclave's identity.
const (
	// ruleCollateralFormat: the evidence carries no collateral, or not its nine strings.
	// Mend: fetch the platform's collateral and hand all of it on with the quote.
	ruleCollateralFormat problem.Rule = "collateral_format"

	// ruleRootCRL: the root's revocation list can't be read, is of another issuer, or is not signed by it.
	// Mend: fetch the collateral again and hand it on byte for byte.
	ruleRootCRL problem.Rule = "root_crl"

	// ruleRootCRLExpired: the root's revocation list is not valid at this time.
	// Mend: fetch fresh collateral on the machine that attests, or check the clock of the one that verifies.
	ruleRootCRLExpired problem.Rule = "root_crl_expired"

	// rulePCKCRL: the revocation list of platforms can't be read, is of another issuer, or is not signed by it.
	// Mend: fetch the collateral again and hand it on byte for byte.
	rulePCKCRL problem.Rule = "pck_crl"

	// rulePCKCRLChain: the revocation list of platforms comes with a chain that is not that of the platform's issuer.
	// Mend: fetch the list of the authority that issued the platform's certificate; there are two.
	rulePCKCRLChain problem.Rule = "pck_crl_chain"

	// rulePCKCRLExpired: the revocation list of platforms is not valid at this time.
	// Mend: fetch fresh collateral on the machine that attests, or check the clock of the one that verifies.
	rulePCKCRLExpired problem.Rule = "pck_crl_expired"

	// ruleTCBInfo: the signed text on the platform's levels of security (TCB info) is not in its form.
	// Mend: fetch the collateral anew; if its maker signed this text, do not use the platform.
	ruleTCBInfo problem.Rule = "tcb_info"

	// ruleTCBInfoChain: the chain of who signed the TCB info doesn't hold.
	// Mend: fetch the collateral again and hand its certificates on in the order in which they came.
	ruleTCBInfoChain problem.Rule = "tcb_info_chain"

	// ruleTCBInfoChainRevoked: the certificate of who signed the TCB info was revoked.
	// Mend: fetch fresh collateral; do not use what a revoked key signed. Kind: unauthenticated.
	ruleTCBInfoChainRevoked problem.Rule = "tcb_info_chain_revoked"

	// ruleTCBInfoSignature: the signature of the TCB info doesn't match its text.
	// Mend: fetch the collateral again and hand it on byte for byte.
	ruleTCBInfoSignature problem.Rule = "tcb_info_signature"

	// ruleTCBInfoExpired: the TCB info is not valid at this time.
	// Mend: fetch fresh collateral on the machine that attests, or check the clock of the one that verifies.
	ruleTCBInfoExpired problem.Rule = "tcb_info_expired"

	// ruleTCBInfoPlatform: the TCB info is about another kind of platform than the certificate.
	// Mend: fetch the collateral for the FMSPC that the platform's certificate names.
	ruleTCBInfoPlatform problem.Rule = "tcb_info_platform"

	// ruleTCBLevel: the platform is below every level that its maker lists.
	// Mend: update the platform's firmware and microcode.
	ruleTCBLevel problem.Rule = "tcb_level"

	// ruleQEIdentity: the quoting enclave is another one than its maker describes, or that description is not in its form.
	// Mend: use Intel's quoting enclave (libsgx-ae-qe3), with the collateral that belongs to it.
	ruleQEIdentity problem.Rule = "qe_identity"

	// ruleQEIdentityChain: the chain of who signed the quoting enclave's identity doesn't hold.
	// Mend: fetch the collateral again and hand its certificates on in the order in which they came.
	ruleQEIdentityChain problem.Rule = "qe_identity_chain"

	// ruleQEIdentityChainRevoked: the certificate of who signed the quoting enclave's identity was revoked.
	// Mend: fetch fresh collateral; do not use what a revoked key signed. Kind: unauthenticated.
	ruleQEIdentityChainRevoked problem.Rule = "qe_identity_chain_revoked"

	// ruleQEIdentitySignature: the signature of the quoting enclave's identity doesn't match its text.
	// Mend: fetch the collateral again and hand it on byte for byte.
	ruleQEIdentitySignature problem.Rule = "qe_identity_signature"

	// ruleQEIdentityExpired: the quoting enclave's identity is not valid at this time.
	// Mend: fetch fresh collateral on the machine that attests, or check the clock of the one that verifies.
	ruleQEIdentityExpired problem.Rule = "qe_identity_expired"

	// ruleQELevel: the quoting enclave is below every version that its maker lists.
	// Mend: update the quoting enclave (libsgx-ae-qe3).
	ruleQELevel problem.Rule = "qe_level"
)
