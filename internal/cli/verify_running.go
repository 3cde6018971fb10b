package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
)

// running is what the CAS says about a session: what runs, under which grants, and
// what the volumes' newest states are.
type running struct {
	session *session.Session
	state   owners.Instances
	grants  []owners.Grant // that have not ended
	me      ident.KeyHash
}

// knowing returns a list on which whoever answers at the app's address is known to
// run. A list that was asked for before can't tell of one that was started since:
// then the CAS is asked again, and that list counts.
func (r *running) knowing(answers ident.InstanceID, again func() (*running, error)) (*running, error) {
	if slices.ContainsFunc(r.state.Instances, func(i owners.Instance) bool { return i.ID == answers && i.State == owners.Running }) {
		return r, nil
	}
	return again()
}

// longestDeployment is for how long the operator is believed that a deployment is
// under way.
const longestDeployment = time.Hour

// behind is a running instance that doesn't have the newest of something.
type behind struct {
	Instance ident.InstanceID  `json:"instance"`
	Service  ident.ServiceName `json:"service"`
	Why      string            `json:"why"`
}

// judge compares every running instance with the newest and names those behind. It
// refuses what is no matter of a moment: an instance without a grant, an app with
// two, another commit than the one that is demanded.
func (r *running) judge(current ident.Digest, o verifyOptions, now time.Time) ([]behind, error) {
	if err := r.granted(); err != nil {
		return nil, err
	}
	if err := r.oneGrant(o, now); err != nil {
		return nil, err
	}
	if err := r.demand(o.commit, o.app); err != nil {
		return nil, err
	}

	out := []behind{}

	for _, i := range r.state.Instances {
		if i.State != owners.Running {
			continue
		}

		if i.SessionHash != current {
			out = append(out, behind{i.ID, i.Service, "it was released under version " + i.SessionHash.String()[:12] + " of the session"})
		}

		if why := r.olderGrant(i.Grant); why != "" {
			out = append(out, behind{i.ID, i.Service, why})
		}

		for _, v := range i.Volumes {
			if why := r.older(v); why != "" {
				out = append(out, behind{i.ID, i.Service, why})
			}
		}
	}

	return out, nil
}

// granted refuses an instance that runs under no grant where the session asks for
// one.
func (r *running) granted() error {
	if !r.session.Access.AsksForGrant() {
		return nil
	}

	for _, i := range r.state.Instances {
		if i.State == owners.Running && i.Grant.IsZero() {
			return problem.New(problem.Denied, ruleInstanceUngranted, "instance %s of %s runs under no grant", i.ID.Short(), i.Service).
				Want("the grant of an owner of session %s", r.session.Name).
				Fix("if it ran before there were grants, deploy the app once: cupel deploy %s", r.session.Name)
		}
	}
	return nil
}

// oneGrant refuses two grants of one app: by them the operator could run twice as
// many copies as were asked for. During a deployment there are two; that one is
// under way is the operator's word, which is good for a while only.
func (r *running) oneGrant(o verifyOptions, now time.Time) error {
	held := map[string][]string{}
	idle := map[string][]string{}
	fresh := map[string]bool{}

	for _, g := range r.grants {
		switch {
		case g.State != owners.GrantClaimed || ownToken(g):
		case !r.session.Access.AsksForGrant() && g.Maker != r.me: // anybody may run it, and make grants called so
		default:
			held[g.App] = append(held[g.App], g.ID.Short())
			if !inUse(g) {
				idle[g.App] = append(idle[g.App], g.ID.Short())
			}
			fresh[g.App] = fresh[g.App] || now.Sub(g.Made) < longestDeployment
		}
	}

	for _, app := range sortedKeys(held) {
		if ids := held[app]; len(ids) > 1 && (!o.deploying || !fresh[app]) {
			return problem.New(problem.Denied, ruleGrantsTwo, "app %s has %d grants, %s, and nothing is known of a deployment under way", app, len(ids), strings.Join(ids, ", ")).
				Want("one grant").
				Fix("%s", r.oneOfThem(idle[app]))
		}
	}

	return nil
}

// ownToken reports whether the grant's maker claimed it, to start the copies too: it
// is no operator's.
func ownToken(g owners.Grant) bool { return g.ClaimedBy == g.Maker && !g.Maker.IsZero() }

// oneOfThem says which of an app's grants to end: what runs stops with its grant.
func (r *running) oneOfThem(idle []string) string {
	see := fmt.Sprintf("see who has them with 'cupel session grants %s', and ", r.session.Name)

	if len(idle) > 0 {
		var commands []string
		for _, id := range idle {
			commands = append(commands, withdrawCommand(r.session.Name, id))
		}
		return see + "if the operator refused a deployment after its code was handed in, they hold its grant for a day, for another try; end what nothing runs under: " +
			strings.Join(commands, "; ")
	}
	return see + "end the one that you don't know, '" + withdrawCommand(r.session.Name, "GRANT") + "': what runs under it stops"
}

func inUse(g owners.Grant) bool {
	for _, p := range g.Places {
		if len(p.Instances) > 0 {
			return true
		}
	}
	return false
}

// leastCommit is how many digits of a commit are demanded at least.
const leastCommit = 16

// demand refuses a running instance that doesn't have the commit.
func (r *running) demand(commit, app string) error {
	if commit == "" {
		return nil
	}

	volume, want, named := strings.Cut(strings.ToLower(commit), "=")
	if !named {
		volume, want = "", volume
	}

	if len(want) < leastCommit || len(want) > 64 || strings.Trim(want, "0123456789abcdef") != "" {
		return problem.New(problem.Invalid, ruleCommit, "--commit %.80q", commit).Want("%d to 64 hex digits, or VOLUME= and these: who may push can find another commit that begins alike, where only few count", leastCommit).Fix("git rev-parse HEAD shows it")
	}
	if volume != "" && !slices.ContainsFunc(r.session.Volumes, func(v session.Volume) bool { return strings.ToLower(v.Name) == volume }) {
		return problem.New(problem.Invalid, ruleCommit, "--commit %.80q: session %s has no volume of that name", commit, r.session.Name)
	}

	seen := false
	for _, i := range r.state.Instances {
		if i.State != owners.Running || r.otherApps(i.Grant, app) {
			continue
		}

		seen = true
		var has []string
		other := false
		for _, v := range i.Volumes {
			if v.Statement != nil && (volume == "" || strings.ToLower(v.Name) == volume) {
				has = append(has, v.Statement.Commit+" in volume "+v.Name)
				other = other || !strings.HasPrefix(v.Statement.Commit, want)
			}
		}

		if other && len(has) > 1 {
			return problem.New(problem.Denied, ruleCommit, "instance %s of %s has %s", i.ID.Short(), i.Service, strings.Join(has, ", ")).
				Want("commit %s", want).
				Fix("say which volume is meant: --commit VOLUME=HEX")
		}
		if other || len(has) == 0 {
			return problem.New(problem.Denied, ruleCommit, "instance %s of %s has %s", i.ID.Short(), i.Service, cmp.Or(strings.Join(has, ", "), "no commit that a puller stated")).
				Want("commit %s", want).
				Fix("deploy the app again; if the session pins no ref, whoever can push decides what is pulled: cupel session create … --ref COMMIT --update")
		}
	}

	if !seen {
		return problem.New(problem.Denied, ruleCommit, "no instance of session %s runs", r.session.Name).
			Want("a running instance with commit %s", want).
			Fix("deploy the app: cupel deploy %s", r.session.Name)
	}

	return nil
}

// otherApps reports whether an instance runs under a grant for another app than the
// one that is verified: a session may have several. What an app is called is the word
// of who made its grant, the owner or a key that the session lets deploy, never of its
// operator or of strangers.
func (r *running) otherApps(id owners.GrantID, app string) bool {
	named := false
	mine := id.IsZero() // under no grant it may be any app's

	for _, g := range r.grants {
		if g.App == app && r.namesApp(g) {
			named = true
			mine = mine || g.ID == id
		}
	}

	return named && !mine
}

// calledOtherwise reports whether the grant that an instance runs under names another
// app, where the owner names app and session, and nobody else may call it so. The
// session's own name stands for any app of it.
func (r *running) calledOtherwise(id owners.GrantID, app string) bool {
	if app == string(r.session.Name) || app == manager.AppName(r.session.Name) {
		return false
	}
	return slices.ContainsFunc(r.grants, func(g owners.Grant) bool { return g.ID == id && g.App != app && r.namesApp(g) })
}

// namesApp reports whether what a grant calls its app counts: else strangers made it.
func (r *running) namesApp(g owners.Grant) bool {
	return g.State == owners.GrantClaimed && (g.Maker == r.me || r.session.Access.AsksForGrant())
}

// olderGrant says that an instance runs under another grant than its app's newest;
// empty if it doesn't.
func (r *running) olderGrant(id owners.GrantID) string {
	at := slices.IndexFunc(r.grants, func(g owners.Grant) bool { return g.ID == id })
	if at < 0 {
		return ""
	}

	mine := r.grants[at]
	for _, g := range r.grants {
		if !r.session.Access.AsksForGrant() && g.Maker != mine.Maker {
			continue
		}
		if g.App == mine.App && g.State == owners.GrantClaimed && !ownToken(g) && g.Made.After(mine.Made) {
			return fmt.Sprintf("it runs under grant %s, and the newest of app %s is %s", mine.ID.Short(), g.App, g.ID.Short())
		}
	}

	return ""
}

// older says why a volume of an instance is not in its newest state; empty if it
// is.
func (r *running) older(v owners.InstanceVolume) string {
	at := slices.IndexFunc(r.state.Volumes, func(n owners.Volume) bool { return n.Name == v.Name })
	if at < 0 {
		return ""
	}

	newest := r.state.Volumes[at]
	if !v.ID.IsZero() && !newest.ID.IsZero() && v.ID != newest.ID {
		return fmt.Sprintf("it has state %d of volume %s as that was before it was started afresh", v.Generation, v.Name)
	}
	if v.Generation >= newest.Generation {
		return ""
	}

	why := fmt.Sprintf("it has state %d of volume %s, and the newest is %d", v.Generation, v.Name, newest.Generation)
	if v.Statement != nil && newest.Statement != nil && v.Statement.Commit != newest.Statement.Commit {
		why += fmt.Sprintf(": commit %s instead of %s", shortCommit(v.Statement), shortCommit(newest.Statement))
	}

	return why
}

// newestCell describes the newest state of a volume.
func newestCell(v owners.Volume) string {
	out := fmt.Sprintf("state %d", v.Generation)
	if v.Statement == nil {
		return out
	}

	out += ", commit " + v.Statement.Commit
	if v.Statement.Pinned {
		out += ", pinned by the session"
	}

	switch v.Statement.Follows {
	case owners.FollowsYes:
		out += ", follows the one before"
	case owners.FollowsNo:
		out += ", does NOT follow the one before: its history was rewritten, or another branch pulled"
	case owners.FollowsUnknown:
	}

	return out
}

// hasCell lists the volumes that an instance has.
func hasCell(i owners.Instance) string {
	var out []string
	for _, v := range i.Volumes {
		text := fmt.Sprintf("%s %d", v.Name, v.Generation)
		if v.Statement != nil {
			text += " (" + shortCommit(v.Statement) + ")"
		}
		out = append(out, text)
	}

	return cmp.Or(strings.Join(out, ", "), "-")
}

func shortCommit(s *owners.Statement) string { return s.Commit[:min(12, len(s.Commit))] }
