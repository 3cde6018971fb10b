package owners

import (
	"cupel.dev/cupel/api/ident"
)

// Event says what an entry records.
type Event string

// Events of the log.
const (
	EventStarted           Event = "cas_started"          // a CAS process took over the state
	EventSessionCreated    Event = "session_created"      // first version of a session
	EventSessionUpdated    Event = "session_updated"      // a later version
	EventSessionRemoved    Event = "session_removed"      // its rows are dropped, its name stays its creator's
	EventUsageCounted      Event = "usage_counted"        // rows of an older CAS now say whom they are counted to
	EventInstanceStarted   Event = "instance_released"    // a service's configuration went to an attested instance
	EventInstanceExited    Event = "instance_exited"      // it reported its exit
	EventInstanceLapsed    Event = "instance_lapsed"      // it missed its keep-alives
	EventInstanceRevoked   Event = "instance_revoked"     // a session update excludes it
	EventInstanceWithdrawn Event = "instance_withdrawn"   // its grant ended
	EventInstanceReturned  Event = "instance_returned"    // it had lapsed, and was attested again
	EventInstanceGone      Event = "instance_gone"        // the holder of its grant's token says that it is no more
	EventInstanceRenewed   Event = "instance_renewed"     // attested again, it got fresh certificates
	EventInstancesPruned   Event = "instances_pruned"     // rows of instances that ended long ago were dropped
	EventSecretGenerated   Event = "secret_generated"     // values that the session leaves to the CAS
	EventLeaseEnded        Event = "lease_ended"          // a session update takes the right to write
	EventVolumeCommitted   Event = "volume_tag_updated"   // a volume's next generation
	EventRotated           Event = "rotated"              // generated values or volume keys, as somebody who may update asked
	EventVolumeReset       Event = "volume_reset"         // its owner has it start afresh
	EventSessionRead       Event = "session_read"         // with the values that its owner gave; once for each key and hour
	EventReleasesRefused   Event = "releases_refused"     // how many since the last such entry
	EventGrantMade         Event = "grant_made"           // somebody who may deploy granted that services are run
	EventGrantClaimed      Event = "grant_claimed"        // a key got its token for its code
	EventGrantChanged      Event = "grant_changed"        // other numbers
	EventGrantEnded        Event = "grant_ended"          // and with it the rights of its instances
	EventGrantsPruned      Event = "grants_pruned"        // rows of grants that ended long ago were dropped
	EventPlatformSeen      Event = "platform_tcb_updated" // newer collateral of a platform family
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
