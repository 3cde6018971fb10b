package audit

import "cupel.dev/cupel/internal/trusted/ident"

// Event says what an entry records.
type Event string

// Events of the log.
const (
	Started           Event = "cas_started"          // a CAS process took over the state
	SessionCreated    Event = "session_created"      // first version of a session
	SessionUpdated    Event = "session_updated"      // a later version
	SessionRemoved    Event = "session_removed"      // its rows are dropped, its name stays its creator's
	UsageCounted      Event = "usage_counted"        // rows of an older CAS now say whom they are counted to
	InstanceStarted   Event = "instance_released"    // a service's configuration went to an attested instance
	InstanceExited    Event = "instance_exited"      // it reported its exit
	InstanceLapsed    Event = "instance_lapsed"      // it missed its keep-alives
	InstanceRevoked   Event = "instance_revoked"     // a session update excludes it
	InstanceWithdrawn Event = "instance_withdrawn"   // its grant ended
	InstanceReturned  Event = "instance_returned"    // it had lapsed, and was attested again
	InstanceGone      Event = "instance_gone"        // the holder of its grant's token says that it is no more
	InstanceRenewed   Event = "instance_renewed"     // attested again, it got fresh certificates
	InstancesPruned   Event = "instances_pruned"     // rows of instances that ended long ago were dropped
	SecretGenerated   Event = "secret_generated"     // values that the session leaves to the CAS
	LeaseEnded        Event = "lease_ended"          // a session update takes the right to write
	VolumeCommitted   Event = "volume_tag_updated"   // a volume's next generation
	Rotated           Event = "rotated"              // generated values or volume keys, as somebody who may update asked
	VolumeReset       Event = "volume_reset"         // its owner has it start afresh
	SessionRead       Event = "session_read"         // with the values that its owner gave; once for each key and hour
	ReleasesRefused   Event = "releases_refused"     // how many since the last such entry
	GrantMade         Event = "grant_made"           // somebody who may deploy granted that services are run
	GrantClaimed      Event = "grant_claimed"        // a key got its token for its code
	GrantChanged      Event = "grant_changed"        // other numbers
	GrantEnded        Event = "grant_ended"          // and with it the rights of its instances
	GrantsPruned      Event = "grants_pruned"        // rows of grants that ended long ago were dropped
	PlatformSeen      Event = "platform_tcb_updated" // newer collateral of a platform family
)

// Row names one changed row of the CAS's state: its identity, the version that
// it has after the change, and the SHA-256 of its sealed bytes (zero: the row
// was removed).
type Row struct {
	ID      string       `json:"id"`
	Version uint64       `json:"version"`
	Hash    ident.Digest `json:"hash"`
}

// Entry is one change.
type Entry struct {
	Seq     uint64            `json:"seq"`  // from 1, without gaps
	Time    int64             `json:"time"` // the CAS's clock, Unix nanoseconds
	Event   Event             `json:"event"`
	Actor   ident.KeyHash     `json:"actor"`             // key of the client or instance that caused it; zero: the CAS itself
	Request string            `json:"request,omitempty"` // request id
	Session ident.SessionName `json:"session,omitempty"`
	Detail  map[string]string `json:"detail,omitempty"`
	Rows    []Row             `json:"rows,omitempty"`
}
