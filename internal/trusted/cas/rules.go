package cas

import (
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/quota"
)

// Rules that this package raises.
const (
	ruleAPIVersion            problem.Rule = "api_version"
	ruleBusy                  problem.Rule = "busy"
	ruleClientCertificate     problem.Rule = "client_certificate"
	ruleClockWentBack         problem.Rule = "clock_went_back"
	ruleCollateralOlder       problem.Rule = "collateral_older"
	ruleGrantClaimed          problem.Rule = "grant_claimed"
	ruleGrantNumber           problem.Rule = "grant_number"
	ruleGrantProvider         problem.Rule = "grant_provider"
	ruleGrantServices         problem.Rule = "grant_services"
	ruleIdentityMissing       problem.Rule = "identity_missing"
	ruleInstanceKeyUsed       problem.Rule = "instance_key_used"
	ruleModeNone              problem.Rule = "mode_none"
	ruleNamespaceUnknown      problem.Rule = "namespace_unknown"
	ruleOtp                   problem.Rule = "otp"
	rulePredecessorMismatch   problem.Rule = "predecessor_mismatch"
	rulePredecessorOfNew      problem.Rule = "predecessor_of_new"
	ruleProtocolVersion       problem.Rule = "protocol_version"
	ruleReleaseFailed         problem.Rule = "release_failed"
	ruleRotateCA              problem.Rule = "rotate_ca"
	ruleRotateNothing         problem.Rule = "rotate_nothing"
	ruleSecretEach            problem.Rule = "secret_each"
	ruleSecretGiven           problem.Rule = "secret_given"
	ruleServiceName           problem.Rule = "service_name"
	ruleSessionExpands        problem.Rule = "session_expands"
	ruleSessionHasChildren    problem.Rule = "session_has_children"
	ruleSessionNameKept       problem.Rule = "session_name_kept"
	ruleSessionVersionUnknown problem.Rule = "session_version_unknown"
	ruleUntil                 problem.Rule = "until"
	ruleUseBy                 problem.Rule = "use_by"
	ruleValueUnknown          problem.Rule = "value_unknown"
	ruleVolumeReadOnly        problem.Rule = "volume_read_only"
	ruleVolumeTagMoved        problem.Rule = "volume_tag_moved"
	ruleVolumeTwice           problem.Rule = "volume_twice"
	ruleVolumeUnused          problem.Rule = "volume_unused"
)

// Rules of the quotas, for each scope and each measure.
const (
	// ruleQuotaKeySessions: the client's key has as many sessions as its quota allows. Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaKeySessions problem.Rule = "quota_key_sessions"
	// ruleQuotaKeyVersions: the client's key has as many versions of sessions as its quota allows. Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaKeyVersions problem.Rule = "quota_key_versions"
	// ruleQuotaKeyBytes: the client's key has as many bytes in session texts and generated values as its quota allows. Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaKeyBytes problem.Rule = "quota_key_bytes"
	// ruleQuotaKeyGrants: the client's key has as many grants that hold as its quota allows. Mend: withdraw grants that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaKeyGrants problem.Rule = "quota_key_grants"
	// ruleQuotaKeyNames: the client's key has as many names of sessions, removed ones included as its quota allows. Mend: use a name again that the key had before, or ask the operator of the CAS for more.
	ruleQuotaKeyNames problem.Rule = "quota_key_names"
	// ruleQuotaAddressSessions: the client's source address has as many sessions as its quota allows. Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaAddressSessions problem.Rule = "quota_address_sessions"
	// ruleQuotaAddressVersions: the client's source address has as many versions of sessions as its quota allows. Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaAddressVersions problem.Rule = "quota_address_versions"
	// ruleQuotaAddressBytes: the client's source address has as many bytes in session texts and generated values as its quota allows. Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaAddressBytes problem.Rule = "quota_address_bytes"
	// ruleQuotaAddressGrants: the client's source address has as many grants that hold as its quota allows. Mend: withdraw grants that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaAddressGrants problem.Rule = "quota_address_grants"
	// ruleQuotaAddressNames: the client's source address has as many names of sessions, removed ones included as its quota allows. Mend: use a name again that the key had before, or ask the operator of the CAS for more.
	ruleQuotaAddressNames problem.Rule = "quota_address_names"
	// ruleQuotaTotalSessions: this CAS has as many sessions as its quota allows. Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaTotalSessions problem.Rule = "quota_total_sessions"
	// ruleQuotaTotalVersions: this CAS has as many versions of sessions as its quota allows. Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaTotalVersions problem.Rule = "quota_total_versions"
	// ruleQuotaTotalBytes: this CAS has as many bytes in session texts and generated values as its quota allows. Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaTotalBytes problem.Rule = "quota_total_bytes"
	// ruleQuotaTotalGrants: this CAS has as many grants that hold as its quota allows. Mend: withdraw grants that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaTotalGrants problem.Rule = "quota_total_grants"
	// ruleQuotaTotalNames: this CAS has as many names of sessions, removed ones included as its quota allows. Mend: use a name again that the key had before, or ask the operator of the CAS for more.
	ruleQuotaTotalNames problem.Rule = "quota_total_names"
)

// quotaRules are the rules by what they limit.
var quotaRules = map[quota.Scope][quota.Measures]problem.Rule{
	quota.PerKey: {
		quota.Sessions: ruleQuotaKeySessions,
		quota.Versions: ruleQuotaKeyVersions,
		quota.Bytes:    ruleQuotaKeyBytes,
		quota.Grants:   ruleQuotaKeyGrants,
		quota.Names:    ruleQuotaKeyNames,
	},
	quota.PerAddress: {
		quota.Sessions: ruleQuotaAddressSessions,
		quota.Versions: ruleQuotaAddressVersions,
		quota.Bytes:    ruleQuotaAddressBytes,
		quota.Grants:   ruleQuotaAddressGrants,
		quota.Names:    ruleQuotaAddressNames,
	},
	quota.InTotal: {
		quota.Sessions: ruleQuotaTotalSessions,
		quota.Versions: ruleQuotaTotalVersions,
		quota.Bytes:    ruleQuotaTotalBytes,
		quota.Grants:   ruleQuotaTotalGrants,
		quota.Names:    ruleQuotaTotalNames,
	},
}
