package cas

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/quota"
)

// charge is what one uploader has in a session: part of its row, so that counting
// at start needs no version.
type charge struct {
	payer
	Versions int64 `json:"versions"`
	Bytes    int64 `json:"bytes"`
}

func (ch charge) amounts() quota.Amounts {
	return quota.Amounts{quota.Versions: ch.Versions, quota.Bytes: ch.Bytes}
}

// maxCharges is how many uploaders of a session are told apart. Those beyond are
// counted by their address alone, and beyond twice as many in total alone.
const maxCharges = 64

// charged is the list with one more version of so many bytes, and whom in the
// list it was counted to.
func charged(list []charge, who payer, bytes int64) ([]charge, payer) {
	list = slices.Clone(list)
	for stage, p := range []payer{who, {Address: who.Address}, {}} {
		i := slices.IndexFunc(list, func(ch charge) bool { return ch.payer == p })
		if i < 0 && len(list) >= (stage+1)*maxCharges && p != (payer{}) {
			continue
		}
		if i < 0 {
			i, list = len(list), append(list, charge{payer: p})
		}
		list[i].Versions++
		list[i].Bytes += bytes
		return list, p
	}
	return list, who
}

// upload is a session's next row, and how it is counted.
type upload struct {
	rec  sessionRecord
	cost quota.Amounts
	who  payer
	to   payer // in rec.Charges
	// kept is the name of a removed session, which is counted to who from now on.
	kept payer
}

// next works out what uploading p changes, under s.mu.
func (s *sessionState) next(who Caller, p *plan, now time.Time) upload {
	bytes := int64(len(p.text)) + p.generated(s.plan)
	u := upload{
		cost: quota.Amounts{quota.Versions: 1, quota.Bytes: bytes},
		who:  who.payer(),
		rec: sessionRecord{
			Creator: who.Key,
			Hash:    p.hash,
			Updated: now,
			Count:   s.current.Count + 1,
			Opened:  s.current.Opened,
		},
	}
	u.rec.Charges, u.to = charged(s.current.Charges, u.who, bytes)
	if !s.current.Hash.IsZero() {
		return u
	}

	u.rec.Opened = u.who
	u.cost[quota.Sessions], u.cost[quota.Names] = 1, 1
	if !s.current.Removed.IsZero() {
		u.kept = s.current.Opened
		if u.kept == u.who {
			u.cost[quota.Names] = 0
		}
	}
	return u
}

// settle counts an upload that is durable as its row has it.
func (l *ledger) settle(u upload) {
	if u.cost[quota.Names] > 0 && u.kept != (payer{}) {
		l.give(u.kept, quota.Amounts{quota.Names: 1})
	}
	if u.to != u.who {
		moved := quota.Amounts{quota.Versions: u.cost[quota.Versions], quota.Bytes: u.cost[quota.Bytes]}
		l.give(u.who, moved)
		l.count(u.to, moved)
	}
}

// countSession counts what a row says, with sign -1 it takes that off.
func (l *ledger) countSession(rec sessionRecord, sign int64) {
	l.mu.Lock()
	defer l.mu.Unlock()

	own := quota.Amounts{quota.Names: 1}
	if rec.Removed.IsZero() {
		own[quota.Sessions] = 1
	}

	l.add(rec.Opened, own, sign)
	for _, ch := range rec.Charges {
		l.add(ch.payer, ch.amounts(), sign)
	}
}

// countAll counts what is kept, from the rows of sessions alone. A row that does
// not match the log is left out, as it is where it is read. Rows of a CAS without
// quotas are completed, once.
func (c *CAS) countAll(ctx context.Context) error {
	var old []ident.SessionName
	for _, row := range c.journal.IDs(prefixSession) {
		name := ident.SessionName(strings.TrimPrefix(string(row), prefixSession))
		rec, err := c.sessionRecord(ctx, name)
		if err != nil {
			if problem.KindOf(err) == problem.Unavailable {
				return err
			}
			c.log.Error("session not counted", "session", name, "error", err)
			continue
		}

		if rec.Opened == (payer{}) {
			old = append(old, name)
			continue
		}
		c.ledger.countSession(rec, 1)
	}

	if len(old) == 0 {
		return nil
	}
	return c.countOld(ctx, old)
}

// countOld completes the rows of sessions that an older CAS kept: their creators
// are charged for the sealed size of their versions.
func (c *CAS) countOld(ctx context.Context, names []ident.SessionName) error {
	versions := map[ident.SessionName][]journal.RowID{}
	for _, row := range c.journal.IDs(prefixVersion) {
		if name, _, ok := cutVersionRow(row); ok {
			versions[name] = append(versions[name], row)
		}
	}

	for chunk := range slices.Chunk(names, journal.MaxGroup) {
		ch := journal.Change{Event: owners.EventUsageCounted}
		for _, name := range chunk {
			rec, err := c.sessionRecord(ctx, name)
			if err != nil {
				return err
			}

			rec.Opened = payer{Key: rec.Creator}
			owed := charge{payer: rec.Opened}
			for _, row := range versions[name] {
				size, err := c.journal.SealedSize(ctx, row)
				if err != nil {
					return err
				}
				owed.Versions++
				owed.Bytes += size
			}

			rec.Charges = []charge{owed}
			plain, err := json.Marshal(rec)
			if err != nil {
				return fmt.Errorf("marshal session: %w", err)
			}
			ch.Rows = append(ch.Rows, journal.Write{ID: sessionRow(name), Plain: plain})
			c.ledger.countSession(rec, 1)
		}

		if _, err := c.journal.Commit(ctx, ch); err != nil {
			return err
		}
	}
	return nil
}

// cutVersionRow takes the row of a version apart.
func cutVersionRow(row journal.RowID) (name ident.SessionName, version string, ok bool) {
	rest, ok := strings.CutPrefix(string(row), prefixVersion)
	i := strings.LastIndexByte(rest, '@')
	if !ok || i < 0 {
		return "", "", false
	}
	return ident.SessionName(rest[:i]), rest[i+1:], true
}
