package manager

import (
	"strconv"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// world is what one pass of planning looks at. Planning is a pure function of
// it: no I/O, no clock, no randomness but newID.
type world struct {
	now         time.Time
	state       State
	observed    map[ident.AttemptID]InstanceStatus // by the attempt's id
	images      map[ident.ImageRef]imageState      // by reference
	byApp       replicasByApp                      // the state's replicas
	applied     serving
	balance     balanceState
	drains      map[ident.AttemptID]drainee        // by the attempt's id
	startErrors map[ident.AttemptID]*problem.Error // failed calls of Start, by the attempt's id
	busy        map[string]bool                    // keys of actions that are under way
	uncleared   map[ident.AttemptID]problem.Rule   // attempts that could not be ended or removed, by their id
	deliveries  map[string]delivery                // what became of notices, by their id
	reached     map[string]reachResult             // by the app's id
	limits      Limits
	launcher    ident.Digest // of new revisions
	newID       func(prefix string) string
	inTheWay    func() bool // nil: nobody knows
}

// imageState is what is known about one image here.
type imageState struct {
	ready    bool
	problem  *problem.Error // of the last try
	failures int            // in a row
	retry    time.Time
}

// balanceState is what is known about the last try to program the balancer.
type balanceState struct {
	known  bool                      // applied is what is served; false until the first success
	retry  time.Time                 // not before
	failed map[uint16]*problem.Error // ports that somebody else holds
}

// decision is the outcome of one pass. The change must be durable before the
// first action begins.
type decision struct {
	change  Change
	actions []planned
	leaving map[ident.AttemptID]bool // ids of attempts that wait for their connections to end
	queued  map[string]bool          // ids of replicas that wait for their turn to start
	visited int                      // apps and replicas that were looked at, for tests
	wake    time.Time                // when something is due; zero: when something happens
}

// attemptID names one attempt to run a replica.
func attemptID(r *Replica, attempt int) ident.AttemptID {
	return ident.AttemptID(r.ID + "-" + strconv.Itoa(attempt))
}

// replicaOf undoes it; the attempt is -1 where the id is none of ours.
func replicaOf(id ident.AttemptID) (replica string, attempt int) {
	at := strings.LastIndexByte(string(id), '-')
	if at < 0 {
		return "", -1
	}
	attempt, err := strconv.Atoi(string(id[at+1:]))
	replica = string(id[:at])
	if err != nil || attemptID(&Replica{ID: replica}, attempt) != id {
		return "", -1
	}
	return replica, attempt
}

// newestAttempt returns what the Backend says about the replica's newest attempt.
func (w *world) newestAttempt(r *Replica) (InstanceStatus, bool) {
	s, ok := w.observed[attemptID(r, r.Attempt)]
	return s, ok
}
