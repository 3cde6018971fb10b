package cas

import (
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/quota"
)

// Rules of requests.
const (
	// ruleAPIVersion: a request of an owner is of another version of the API than this CAS speaks.
	// Mend: use a cupel of the same release as the CAS.
	ruleAPIVersion problem.Rule = "api_version"

	// ruleProtocolVersion: a request of an instance, or of a grant's holder, is of another version than this CAS speaks.
	// Mend: use a cupel-init and a cupeld of the same release as the CAS.
	ruleProtocolVersion problem.Rule = "protocol_version"

	// ruleClientCertificate: a session is to be created without a client certificate.
	// Mend: use cupel session create, or curl with --cert and --key; a self-signed certificate is enough.
	ruleClientCertificate problem.Rule = "client_certificate"

	// ruleServiceName: the name of a service is not of its form.
	// Mend: name a service of the session as its text does.
	ruleServiceName problem.Rule = "service_name"

	// ruleOtp: a request carries a one-time password, which sessions of this CAS have not.
	// Mend: leave it out of the config id.
	ruleOtp problem.Rule = "otp"

	// ruleModeNone: a session gives its secrets to whoever asks (mode: none), and this CAS was not started for such.
	// Mend: remove the line from the session, or start the CAS with --allow-unattested.
	ruleModeNone problem.Rule = "mode_none"

	// ruleBusy: other sessions are being read, and this one's turn did not come in time.
	// Mend: try again.
	ruleBusy problem.Rule = "busy"

	// ruleClockWentBack: the CAS's clock stands before the last entry of its audit log.
	// Mend: set the clock of the CAS's machine right; where it is right, wait until the time that is named.
	ruleClockWentBack problem.Rule = "clock_went_back"

	// ruleIdentityMissing: the state has an audit log, and not the identity that signs it.
	// Mend: restore the whole state folder from its newest backup.
	ruleIdentityMissing problem.Rule = "identity_missing"
)

// Rules of sessions.
const (
	// ruleNamespaceUnknown: the session that would be the namespace of a new one is not there.
	// Mend: create the namespace's session first.
	ruleNamespaceUnknown problem.Rule = "namespace_unknown"

	// rulePredecessorMismatch: an update starts from another version than the current one.
	// Mend: read the session again and start from its current version.
	rulePredecessorMismatch problem.Rule = "predecessor_mismatch"

	// rulePredecessorOfNew: a new session names a predecessor.
	// Mend: remove the line predecessor.
	rulePredecessorOfNew problem.Rule = "predecessor_of_new"

	// ruleSessionExpands: a session is much larger than its text, once its services are filled in.
	// Mend: let fewer services share large injection files, or put these into the image or a volume.
	ruleSessionExpands problem.Rule = "session_expands"

	// ruleSessionHasChildren: a session is to be removed that is the namespace of others.
	// Mend: remove those first, the deepest before the others.
	ruleSessionHasChildren problem.Rule = "session_has_children"

	// ruleSessionNameKept: the name is that of a removed session, and stays its creator's.
	// Mend: choose another name, or use the key that created it.
	ruleSessionNameKept problem.Rule = "session_name_kept"

	// ruleSessionVersionUnknown: the session has no version with that hash.
	// Mend: ask for the current version, or for one whose hash you have from a session create.
	ruleSessionVersionUnknown problem.Rule = "session_version_unknown"

	// ruleValueUnknown: the session has no public value of that name.
	// Mend: check the name; its owner exports it with export_public: true.
	ruleValueUnknown problem.Rule = "value_unknown"
)

// Rules of rotations.
const (
	// ruleRotateCA: the key of a certificate authority is to be rotated without the authority, which users have pinned.
	// Mend: name the authority, if users are to get another one; its key goes with it.
	ruleRotateCA problem.Rule = "rotate_ca"

	// ruleRotateNothing: neither a secret nor a volume is named.
	// Mend: name what to rotate: cupel session rotate NAME SECRET, or --volume VOLUME.
	ruleRotateNothing problem.Rule = "rotate_nothing"

	// ruleSecretEach: every instance has a certificate of its own, so that there is none to rotate.
	// Mend: replace the instances, or rotate its issuer.
	ruleSecretEach problem.Rule = "secret_each"

	// ruleSecretGiven: a secret is to be rotated whose value its owner gave.
	// Mend: update the session with another value: cupel session create --update.
	ruleSecretGiven problem.Rule = "secret_given"
)

// Rules of grants.
const (
	// ruleGrantClaimed: another key has used the code.
	// Mend: ask the session's owner for a new one, and to look who has this one: cupel session grants NAME.
	ruleGrantClaimed problem.Rule = "grant_claimed"

	// ruleGrantNumber: a grant is for no number of instances or runs that can be, or changes from one to the other.
	// Mend: give either instances or runs, at least one; to change between them, make a new grant.
	ruleGrantNumber problem.Rule = "grant_number"

	// ruleGrantProvider: the code is for another provider's key.
	// Mend: hand it to the provider whose key the owner named.
	ruleGrantProvider problem.Rule = "grant_provider"

	// ruleGrantServices: a grant names no service, or too many.
	// Mend: say how many instances or runs of which services it is for, or make several grants.
	ruleGrantServices problem.Rule = "grant_services"

	// ruleUntil: a grant is to end at a time that is past.
	// Mend: give a time in the future.
	ruleUntil problem.Rule = "until"

	// ruleUseBy: a grant's code is to be good until a time that is past or too far away.
	// Mend: give a time in the future, within the days that are named.
	ruleUseBy problem.Rule = "use_by"
)

// Rules of instances.
const (
	// ruleCollateralOlder: the collateral of a platform is older than what the CAS has seen of it, and could hide a revocation.
	// Mend: let the node fetch its platform's newest collateral.
	ruleCollateralOlder problem.Rule = "collateral_older"

	// ruleInstanceKeyUsed: the key of an instance is that of another one.
	// Mend: make a fresh key for every instance.
	ruleInstanceKeyUsed problem.Rule = "instance_key_used"

	// ruleInstanceRevoked: an instance's rights ended with an update of the session, which its code or platform does not satisfy.
	// Mend: restart the instance: it is attested afresh.
	ruleInstanceRevoked problem.Rule = "instance_revoked"

	// ruleReleaseFailed: the first request of the instance failed while this one waited for it.
	// Mend: try again.
	ruleReleaseFailed problem.Rule = "release_failed"
)

// Rules of volumes.
const (
	// ruleVolumeReadOnly: an instance commits a volume of which it has a private snapshot.
	// Mend: change the mount's update_policy in the session, if this service is to write.
	ruleVolumeReadOnly problem.Rule = "volume_read_only"

	// ruleVolumeTagMoved: a commit does not start from the newest state of the volume.
	// Mend: restart the instance: it starts from the newest state.
	ruleVolumeTagMoved problem.Rule = "volume_tag_moved"

	// ruleVolumeTwice: a service mounts the same volume twice.
	// Mend: mount it once.
	ruleVolumeTwice problem.Rule = "volume_twice"

	// ruleVolumeUnused: a volume is to be reset, or its key rotated, that nothing has used.
	// Mend: do nothing: there is nothing to reset or to rotate.
	ruleVolumeUnused problem.Rule = "volume_unused"
)

// endedRules are the rules by the states in which an instance has no rights any more.
var endedRules = map[owners.State]problem.Rule{
	owners.Exited:    problem.RuleInstanceExited,
	owners.Lapsed:    problem.RuleInstanceLapsed,
	owners.Revoked:   ruleInstanceRevoked,
	owners.Withdrawn: problem.RuleInstanceWithdrawn,
	owners.Gone:      problem.RuleInstanceGone,
}

// Rules of the quotas, for each scope and each measure.
const (
	// ruleQuotaKeySessions: the client's key has as many sessions as its quota allows.
	// Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaKeySessions problem.Rule = "quota_key_sessions"

	// ruleQuotaKeyVersions: the client's key has as many versions of sessions as its quota allows.
	// Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaKeyVersions problem.Rule = "quota_key_versions"

	// ruleQuotaKeyBytes: the client's key has as many bytes in session texts and generated values as its quota allows.
	// Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaKeyBytes problem.Rule = "quota_key_bytes"

	// ruleQuotaKeyGrants: the client's key has as many grants that hold as its quota allows.
	// Mend: withdraw grants that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaKeyGrants problem.Rule = "quota_key_grants"

	// ruleQuotaKeyNames: the client's key has as many names of sessions, removed ones included as its quota allows.
	// Mend: use a name again that the key had before, or ask the operator of the CAS for more.
	ruleQuotaKeyNames problem.Rule = "quota_key_names"

	// ruleQuotaAddressSessions: the client's source address has as many sessions as its quota allows.
	// Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaAddressSessions problem.Rule = "quota_address_sessions"

	// ruleQuotaAddressVersions: the client's source address has as many versions of sessions as its quota allows.
	// Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaAddressVersions problem.Rule = "quota_address_versions"

	// ruleQuotaAddressBytes: the client's source address has as many bytes in session texts and generated values as its quota allows.
	// Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaAddressBytes problem.Rule = "quota_address_bytes"

	// ruleQuotaAddressGrants: the client's source address has as many grants that hold as its quota allows.
	// Mend: withdraw grants that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaAddressGrants problem.Rule = "quota_address_grants"

	// ruleQuotaAddressNames: the client's source address has as many names of sessions, removed ones included as its quota allows.
	// Mend: use a name again that the key had before, or ask the operator of the CAS for more.
	ruleQuotaAddressNames problem.Rule = "quota_address_names"

	// ruleQuotaTotalSessions: this CAS has as many sessions as its quota allows.
	// Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaTotalSessions problem.Rule = "quota_total_sessions"

	// ruleQuotaTotalVersions: this CAS has as many versions of sessions as its quota allows.
	// Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaTotalVersions problem.Rule = "quota_total_versions"

	// ruleQuotaTotalBytes: this CAS has as many bytes in session texts and generated values as its quota allows.
	// Mend: remove sessions that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaTotalBytes problem.Rule = "quota_total_bytes"

	// ruleQuotaTotalGrants: this CAS has as many grants that hold as its quota allows.
	// Mend: withdraw grants that nobody needs, or ask the operator of the CAS for more.
	ruleQuotaTotalGrants problem.Rule = "quota_total_grants"

	// ruleQuotaTotalNames: this CAS has as many names of sessions, removed ones included as its quota allows.
	// Mend: use a name again that the key had before, or ask the operator of the CAS for more.
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
