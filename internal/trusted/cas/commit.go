package cas

import (
	"context"
	"fmt"
	"slices"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Commit moves volumes to their next generations by compare-and-swap, all that the
// request names or none. Asking again for what was committed already answers as the
// first time did.
func (c *CAS) Commit(ctx context.Context, who Caller, req wire.TagRequest) (wire.TagReply, error) {
	if err := checkVersion(req.Version); err != nil {
		return wire.TagReply{}, err
	}
	if err := checkStatement(req.Statement); err != nil {
		return wire.TagReply{}, err
	}
	in, unlock, err := c.alive(who)
	if err != nil {
		return wire.TagReply{}, err
	}
	defer unlock()

	steps, unlockAll, err := c.lockMoves(ctx, in, req.Moves())
	defer unlockAll()
	if err != nil {
		return wire.TagReply{}, err
	}
	reply := wire.TagReply{Version: req.Version, Generation: req.From + 1}
	again, err := mayCommit(in, steps)
	if err != nil || again {
		reply.Head = c.Head()
		return reply, err
	}

	rec := in.rec
	rec.Volumes = slices.Clone(rec.Volumes)
	var ch []journal.Change
	for i := range steps {
		one, err := steps[i].take(&rec, req.Statement)
		if err != nil {
			return wire.TagReply{}, err
		}
		one.Actor, one.Request, one.Session = who.Key, who.Request, in.session.name
		ch = append(ch, one)
	}

	counted, done, err := in.count(&rec)
	if err != nil {
		return wire.TagReply{}, err
	}

	committed := false
	defer func() { done(committed) }()

	row, err := in.put(rec)
	if err != nil {
		return wire.TagReply{}, err
	}
	ch[0].Rows = append(append(ch[0].Rows, row), counted...)

	if reply.Head, err = c.journal.Commit(ctx, ch...); err != nil {
		return wire.TagReply{}, err
	}

	committed = true
	in.rec = rec
	for _, st := range steps {
		st.v.rec = st.next
	}
	return reply, nil
}

// step is one move of a commit: a locked volume, and what it becomes.
type step struct {
	wire.TagMove
	v    *volume
	at   int // in the instance's Volumes
	next volumeRecord
}

// lockMoves locks the volumes of a commit, in the order of names, which is that of
// the instance's. The caller unlocks them in any case.
func (c *CAS) lockMoves(ctx context.Context, in *instance, moves []wire.TagMove) (steps []step, unlock func(), err error) {
	unlock = func() {
		for _, st := range steps {
			st.v.mu.Unlock()
		}
	}
	for at, m := range in.rec.Volumes {
		i := slices.IndexFunc(moves, func(mv wire.TagMove) bool { return mv.Volume == m.ID })
		if i < 0 {
			continue
		}

		v := in.session.volume(m.Name)
		v.mu.Lock()
		steps = append(steps, step{TagMove: moves[i], v: v, at: at})
		moves = slices.Delete(moves, i, i+1)
		if err := v.load(ctx, c.journal); err != nil {
			return steps, unlock, err
		}
	}

	if len(moves) > 0 {
		return steps, unlock, problem.New(problem.NotFound, problem.RuleVolumeUnknown, "the instance has no volume %s, or it is named twice", moves[0].Volume)
	}
	return steps, unlock, nil
}

// take makes the change by which the volume moves, and notes it in the instance's
// row.
func (st *step) take(rec *instanceRecord, said *owners.Statement) (journal.Change, error) {
	m := &rec.Volumes[st.at]
	st.next = st.v.rec
	st.next.Generation = st.From + 1
	st.next.Tag = st.Tag
	st.next.Statement = said

	if m.Rekeys {
		st.next.Key, st.next.NextKey = st.next.NextKey, nil // the one before is forgotten with this
	}

	m.Rekeys = false
	m.Committed = true
	m.Key = keyName(st.next.Key)
	m.Generation = st.next.Generation
	m.Tag = st.next.Tag
	m.Statement = st.next.Statement

	row, err := st.v.put(st.next)
	return journal.Change{
		Event:  owners.EventVolumeCommitted,
		Detail: map[string]string{"volume": st.v.name, "generation": fmt.Sprint(st.next.Generation), "tag": st.next.Tag.String()},
		Rows:   []journal.Write{row},
	}, err
}

// checkStatement holds a statement to its form; whether it is true is between the
// measured app and those who vouch for it.
func checkStatement(s *owners.Statement) error {
	if s == nil {
		return nil
	}

	if !s.Follows.Known() || !owners.IsCommit(s.Commit) {
		return problem.New(problem.Invalid, problem.RuleStatement, "the statement on what was stored can't be read").
			Want("a commit of 40 or 64 hex digits; follows: yes, no or unknown").
			Fix("mend the program that writes /run/cupel/statement.json")
	}
	return nil
}

// mayCommit checks lease and starting point of every move, under the locks of the
// instance and its volumes. again is true for a commit that was made already.
func mayCommit(in *instance, steps []step) (again bool, err error) {
	made := 0
	for _, st := range steps {
		again, err := st.v.mayMove(in, in.rec.Volumes[st.at], st.TagMove)
		if err != nil {
			return false, err
		}
		if again {
			made++
		}
	}

	if made > 0 && made < len(steps) {
		return false, problem.New(problem.Conflict, ruleVolumeTagMoved, "%d of %d volumes moved already", made, len(steps)).
			Want("a commit of all or of none").
			Fix("restart the instance: it starts from the newest state")
	}
	return made > 0, nil
}

// mayMove is mayCommit for one volume.
func (v *volume) mayMove(in *instance, g mounted, req wire.TagMove) (again bool, err error) {
	switch {
	case g.Access != owners.ReadWrite:
		return false, problem.New(problem.Denied, ruleVolumeReadOnly, "the instance has a private snapshot of volume %s: it may not commit", v.name).
			Want("a mount with `update_policy: rollback_protected`").
			Fix("change the mount's update_policy in the session, if this service is to write")
	case v.rec.Holder != in.id || v.rec.Lease != g.Lease || req.Lease != g.Lease:
		return false, problem.New(problem.Denied, problem.RuleLeaseEnded, "lease %d of volume %s", req.Lease, v.name).
			Want("lease %d, held by instance %s", v.rec.Lease, v.rec.Holder.Short()).
			Fix("restart the instance: it starts from the newest state")
	case req.Tag.IsZero():
		return false, problem.New(problem.Invalid, problem.RuleVolumeTag, "the new tag is zero")
	case v.rec.Generation == req.From+1 && v.rec.Tag == req.Tag:
		return true, nil
	case v.rec.Generation != req.From || v.rec.Tag != req.FromTag:
		return false, problem.New(problem.Conflict, ruleVolumeTagMoved, "the commit starts from generation %d", req.From).
			Want("generation %d with tag %s", v.rec.Generation, v.rec.Tag).
			Fix("restart the instance: it starts from the newest state")
	}
	return false, nil
}
