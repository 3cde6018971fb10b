package owners

import "regexp"

// Statement is a measured puller's word on what it stored in a volume. Whoever
// vouches for the puller can believe it; the CAS keeps it beside the tag.
type Statement struct {
	// Commit is the id of the commit: 40 or 64 hex digits.
	Commit string `json:"commit"`
	// Pinned says that the session names this very commit, not a branch or tag.
	Pinned bool `json:"pinned"`
	// Follows says whether the commit descends from the one that the volume held
	// before.
	Follows Follows `json:"follows"`
}

// Follows answers whether a commit descends from the one before.
type Follows string

// Answers of Follows.
const (
	FollowsYes     Follows = "yes"     // it descends from the one before, or is the same
	FollowsNo      Follows = "no"      // it doesn't: the branch was rewritten, or another one was pulled
	FollowsUnknown Follows = "unknown" // there was none before, or the history that was fetched can't tell
)

// Known reports whether f is one of the three answers.
func (f Follows) Known() bool { return f == FollowsYes || f == FollowsNo || f == FollowsUnknown }

var commitID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// IsCommit reports whether s has the form of a commit's id.
func IsCommit(s string) bool { return commitID.MatchString(s) }
