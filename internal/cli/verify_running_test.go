package cli

import (
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
)

var (
	oldCommit = strings.Repeat("a", 40)
	newCommit = strings.Repeat("b", 40)
)

// aRunning is a session with an instance that has the newest of everything, and
// one that ended long ago.
func aRunning() (*running, ident.Digest) {
	hash := ident.Sum([]byte("session"))
	has := func(generation uint64, commit string) []owners.InstanceVolume {
		return []owners.InstanceVolume{{Name: "repo", Access: owners.ReadOnly, Generation: generation, Statement: &owners.Statement{Commit: commit}}}
	}
	return &running{
		session: &session.Session{Name: "shop"},
		state: owners.Instances{
			Volumes: []owners.Volume{{Name: "repo", Generation: 2, Statement: &owners.Statement{Commit: newCommit, Follows: owners.FollowsNo}}},
			Instances: []owners.Instance{
				{ID: ident.InstanceID{1}, Service: "client-app", State: owners.Exited},
				{ID: ident.InstanceID{2}, Service: "client-app", State: owners.Running, SessionHash: hash, Grant: owners.GrantID{1}, Volumes: has(2, newCommit)},
			},
		},
		grants: []owners.Grant{{ID: owners.GrantID{1}, App: "shop", State: owners.GrantClaimed}, {ID: owners.GrantID{2}, App: "shop", State: owners.GrantOpen}},
	}, hash
}

// TestOlderListCondemnsNoNewerInstance: an app that was started again between the list
// and the look at its address is no impostor; one that no list knows is.
func TestOlderListCondemnsNoNewerInstance(t *testing.T) {
	before, _ := aRunning()
	after, _ := aRunning()
	young := ident.InstanceID{3}
	after.state.Instances = append(after.state.Instances, owners.Instance{ID: young, Service: "client-app", State: owners.Running})
	asked := 0
	again := func() (*running, error) {
		asked++
		return after, nil
	}
	for _, c := range []struct {
		id    ident.InstanceID
		list  *running
		asked int
	}{{ident.InstanceID{2}, before, 0}, {young, after, 1}, {ident.InstanceID{1}, after, 1}, {ident.InstanceID{9}, after, 1}} {
		asked = 0
		if got, err := before.knowing(c.id, again); err != nil || got != c.list || asked != c.asked {
			t.Errorf("instance %s: %v, asked again %d times, want %d", c.id.Short(), err, asked, c.asked)
		}
	}
}

func TestJudgeNamesWhoIsBehind(t *testing.T) {
	now := time.Now()
	r, hash := aRunning()
	if got, err := r.judge(hash, verifyOptions{commit: newCommit[:16]}, now); err != nil || len(got) != 0 {
		t.Errorf("all newest: %v, %v", got, err)
	}

	late := r.state.Instances[1]
	late.ID, late.SessionHash = ident.InstanceID{3}, ident.Sum([]byte("before"))
	late.Volumes = []owners.InstanceVolume{{Name: "repo", Generation: 1, Statement: &owners.Statement{Commit: oldCommit}}}
	r.state.Instances = append(r.state.Instances, late)
	got, err := r.judge(hash, verifyOptions{}, now)
	if err != nil || len(got) != 2 || got[0].Instance != late.ID || got[1].Instance != late.ID {
		t.Fatalf("%v, %v; want the late instance for its session and its volume", got, err)
	}
	if why := got[1].Why; why != "it has state 1 of volume repo, and the newest is 2: commit aaaaaaaaaaaa instead of bbbbbbbbbbbb" {
		t.Errorf("%s", why)
	}

	// A volume that was started afresh counts from 0 again: it is the id that tells.
	late.SessionHash = hash
	for _, generation := range []uint64{1, 2, 5} {
		late.Volumes = []owners.InstanceVolume{{Name: "repo", ID: ident.Digest{1}, Generation: generation, Statement: &owners.Statement{Commit: oldCommit}}}
		afresh := *r
		afresh.state.Volumes = []owners.Volume{{Name: "repo", ID: ident.Digest{2}, Generation: 2, Statement: &owners.Statement{Commit: newCommit}}}
		afresh.state.Instances = []owners.Instance{late}
		got, err := afresh.judge(hash, verifyOptions{}, now)
		if err != nil || len(got) != 1 || got[0].Instance != late.ID || !strings.Contains(got[0].Why, "afresh") {
			t.Errorf("state %d of a volume before its reset: %v, %v", generation, got, err)
		}
	}

	_, err = r.judge(hash, verifyOptions{commit: newCommit}, now)
	if p := problem.From(err); p == nil || p.Rule != "commit" || !strings.Contains(p.Actual, late.ID.Short()) || !strings.Contains(p.Actual, oldCommit) {
		t.Errorf("another commit than demanded: %v", err)
	}
	if text := newestCell(r.state.Volumes[0]); !strings.Contains(text, newCommit) || !strings.Contains(text, "NOT follow") {
		t.Errorf("%s", text)
	}
}

func TestJudgeCountsGrants(t *testing.T) {
	now := time.Now()
	r, hash := aRunning()
	second := owners.Grant{ID: owners.GrantID{3}, App: "shop", State: owners.GrantClaimed, Made: now}
	r.grants = append(r.grants, second)
	if _, err := r.judge(hash, verifyOptions{}, now); problem.From(err) == nil || problem.From(err).Rule != "grants_two" {
		t.Errorf("two grants: %v", err)
	}
	// Never the advice to end the grant that the app runs under.
	r.grants[0].Places = map[ident.ServiceName]owners.Places{"client-app": {Instances: []ident.InstanceID{{2}}}}
	_, err := r.judge(hash, verifyOptions{}, now)
	if mend := problem.From(err).Mend; !strings.HasSuffix(mend, "nothing runs under: cupel session grants shop --withdraw "+second.ID.Short()) {
		t.Errorf("%s", mend)
	}
	got, err := r.judge(hash, verifyOptions{deploying: true}, now)
	if err != nil || len(got) != 1 || !strings.Contains(got[0].Why, "under grant "+r.grants[0].ID.Short()) {
		t.Errorf("during a deployment: %v, %v; want the instance under the older grant named", got, err)
	}
	// A manager that says so for ever is not believed.
	if _, err := r.judge(hash, verifyOptions{deploying: true}, now.Add(2*longestDeployment)); err == nil {
		t.Errorf("a deployment of two hours is believed")
	}
	r.grants[2].App = "other"
	if _, err := r.judge(hash, verifyOptions{}, now); err != nil {
		t.Errorf("two apps of one session: %v", err)
	}
}

// TestJudgeCountsTheOperatorsGrants: a token that the owner keeps for copies of their
// own, and what strangers make where anybody may, is no second right of the operator's.
func TestJudgeCountsTheOperatorsGrants(t *testing.T) {
	now := time.Now()
	r, hash := aRunning()
	r.me = ident.KeyHash{1}
	r.grants[0].Maker = r.me
	kept := owners.Grant{ID: owners.GrantID{3}, App: "shop", State: owners.GrantClaimed, Made: now, Maker: r.me, ClaimedBy: r.me}
	r.grants = append(r.grants, kept)
	if _, err := r.judge(hash, verifyOptions{}, now); err != nil {
		t.Errorf("a token of the owner's own: %v", err)
	}
	r.grants[2].Maker, r.grants[2].ClaimedBy = ident.KeyHash{7}, ident.KeyHash{9}
	if _, err := r.judge(hash, verifyOptions{}, now); err == nil {
		t.Error("a colleague's grant for the same app is not named")
	}
	r.session.Access.Deploy = []session.AccessEntry{{Word: session.Any}}
	if _, err := r.judge(hash, verifyOptions{}, now); err != nil {
		t.Errorf("where anybody may make some: %v", err)
	}
}

// TestJudgeDemandsTheCommitOfAVolume: with two repositories in an instance, the one
// that is meant has to be named.
func TestJudgeDemandsTheCommitOfAVolume(t *testing.T) {
	r, hash := aRunning()
	r.state.Instances = r.state.Instances[:1]
	r.session.Volumes = []session.Volume{{Name: "app"}, {Name: "data"}}
	in := &r.state.Instances[0]
	in.State, in.Grant = owners.Running, r.grants[0].ID
	in.Volumes = []owners.InstanceVolume{
		{Name: "app", Statement: &owners.Statement{Commit: newCommit}},
		{Name: "data", Statement: &owners.Statement{Commit: oldCommit}},
	}
	for commit, ok := range map[string]bool{newCommit: false, "app=" + newCommit: true, "data=" + newCommit: false, "none=" + newCommit: false, "app=": false} {
		_, err := r.judge(hash, verifyOptions{commit: commit}, time.Now())
		if p := problem.From(err); ok != (err == nil) || err != nil && p.Rule != "commit" {
			t.Errorf("%s: %v", commit, err)
		}
	}
}

// TestJudgeDemandsOfTheAppThatIsMeant: of several apps of a session, that one whose
// grants are called so.
func TestJudgeDemandsOfTheAppThatIsMeant(t *testing.T) {
	r, hash := aRunning()
	other := r.state.Instances[1]
	other.ID, other.Grant = ident.InstanceID{9}, owners.GrantID{9}
	other.Volumes = []owners.InstanceVolume{{Name: "repo", Generation: 1, Statement: &owners.Statement{Commit: oldCommit}}}
	r.state.Instances = append(r.state.Instances, other)
	r.grants = append(r.grants, owners.Grant{ID: other.Grant, App: "old-shop", State: owners.GrantClaimed})
	for app, want := range map[string]bool{"shop": true, "old-shop": false, "shop-by-another-name": false} {
		_, err := r.judge(hash, verifyOptions{commit: newCommit, app: app}, time.Now())
		if p := problem.From(err); want != (err == nil) || err != nil && p.Rule != "commit" {
			t.Errorf("%s: %v", app, err)
		}
	}
	ungranted := other
	ungranted.ID, ungranted.Grant = ident.InstanceID{8}, owners.GrantID{}
	r.session.Access.Deploy = []session.AccessEntry{{Word: session.Any}}
	r.state.Instances = append(r.state.Instances, ungranted)
	if _, err := r.judge(hash, verifyOptions{commit: newCommit, app: "shop"}, time.Now()); err == nil {
		t.Error("what runs under no grant is left out")
	}
	r.grants[0].Maker = ident.KeyHash{7} // a stranger calls theirs so
	if r.otherApps(other.Grant, "shop") {
		t.Error("a stranger's grant decides which instances count")
	}
	r.grants[0].Maker = r.me
	if !r.otherApps(other.Grant, "shop") || r.otherApps(other.Grant, "old-shop") || r.otherApps(other.Grant, "what the operator calls it") {
		t.Error("instances are taken for another app's")
	}
	r.session.Access.Deploy = nil
	r.grants[0].Maker = ident.KeyHash{7} // a colleague, whom the session lets make grants
	if !r.otherApps(other.Grant, "shop") {
		t.Error("a colleague's app has no instances of its own")
	}
}

func TestJudgeRefusesWhoHasNoGrant(t *testing.T) {
	r, hash := aRunning()
	r.state.Instances[1].Grant = owners.GrantID{}
	_, err := r.judge(hash, verifyOptions{}, time.Now())
	if p := problem.From(err); p == nil || p.Rule != "instance_ungranted" || !strings.Contains(p.Mend, "cupel deploy shop") {
		t.Errorf("%v", err)
	}
	r.session.Access.Deploy = []session.AccessEntry{{Word: session.Any}}
	if _, err := r.judge(hash, verifyOptions{}, time.Now()); err != nil {
		t.Errorf("a session that asks for none: %v", err)
	}
}

// TestJudgeDemandsACommitOfSomebody: where nobody runs, nobody has it.
func TestJudgeDemandsACommitOfSomebody(t *testing.T) {
	r, hash := aRunning()
	r.state.Instances = r.state.Instances[:1]
	_, err := r.judge(hash, verifyOptions{commit: newCommit}, time.Now())
	if p := problem.From(err); p == nil || p.Rule != "commit" || !strings.Contains(p.Actual, "no instance") {
		t.Errorf("%v", err)
	}
}
