package owners

import (
	"time"

	"cupel.dev/cupel/api/ident"
)

// NewGrant asks for the right to run a session's services. The caller's key must
// be one that the session's access_policy lets deploy.
type NewGrant struct {
	Version int               `json:"version"`
	Session ident.SessionName `json:"session"`
	// App is what the app is to be called, for people: 1 to 40 of a-z 0-9 -.
	App      string                               `json:"app"`
	Services map[ident.ServiceName]GrantedService `json:"services"`
	// UseBy is until when the code can be claimed; nil: for 24 hours.
	UseBy *time.Time `json:"use_by,omitempty"`
	// Until is when the grant ends; nil: never by itself.
	Until *time.Time `json:"until,omitempty"`
	// Provider is the one key that may claim the code; zero: the first that does.
	Provider ident.KeyHash `json:"provider,omitzero"`
}

// GrantMade answers NewGrant. Code is shown this once.
type GrantMade struct {
	Version int    `json:"version"`
	Grant   Grant  `json:"grant"`
	Code    string `json:"code"`
}

// GrantState says whether a grant can be used.
type GrantState string

// States of a grant.
const (
	GrantOpen    GrantState = "open"    // its code waits to be claimed
	GrantClaimed GrantState = "claimed" // somebody holds its token
	GrantEnded   GrantState = "ended"
)

// Reasons of a grant's end.
const (
	EndWithdrawn = "withdrawn"  // by its maker, or another who may
	EndGivenBack = "given_back" // by the holder of its token
	EndPolicy    = "policy"     // a session update leaves its maker out of deploy
	EndUntil     = "until"      // its time is over
	EndUnused    = "unused"     // its code was not claimed in time
	EndOfSession = "session"    // the session was removed
)

// Grant is the right to run so many copies of a session's services.
type Grant struct {
	ID        GrantID                              `json:"id"`
	Session   ident.SessionName                    `json:"session"`
	App       string                               `json:"app"`
	Services  map[ident.ServiceName]GrantedService `json:"services"`
	State     GrantState                           `json:"state"`
	Maker     ident.KeyHash                        `json:"maker"`
	Made      time.Time                            `json:"made"`
	UseBy     time.Time                            `json:"use_by"`
	Until     *time.Time                           `json:"until,omitempty"`
	Provider  ident.KeyHash                        `json:"provider,omitzero"`
	ClaimedBy ident.KeyHash                        `json:"claimed_by,omitzero"`
	Claimed   *time.Time                           `json:"claimed,omitempty"`
	Ended     *time.Time                           `json:"ended,omitempty"`
	EndReason string                               `json:"end_reason,omitempty"`
	// Places says who has the places, and what of the runs is used, by service.
	Places map[ident.ServiceName]Places `json:"places"`
	// Lost says, in the answer of a withdrawal, what instances wrote to volumes and
	// can't store any more.
	Lost []string `json:"lost,omitempty"`
}

// Places is how much of a granted service is in use.
type Places struct {
	Instances []ident.InstanceID `json:"instances,omitempty"` // with rights
	Used      int                `json:"used,omitempty"`      // runs that ended well
}

// GrantChange gives services of a claimed or open grant another number, at once
// and under the same token. Services that it doesn't name stay.
type GrantChange struct {
	Version  int                                  `json:"version"`
	Services map[ident.ServiceName]GrantedService `json:"services"`
}

// Grants lists a session's grants, newest first; of those that ended, the latest.
type Grants struct {
	Version int     `json:"version"`
	Grants  []Grant `json:"grants"`
}
