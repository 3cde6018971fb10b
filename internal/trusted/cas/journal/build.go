package journal

import (
	"fmt"
	"maps"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/audit"
)

// build makes the batch of some groups: it numbers the entries, seals the rows,
// chains the entries, and signs the head after them. It returns the chain and the
// time as they are after the batch. Under commitMu.
func (j *Journal) build(groups []*group) (Batch, audit.Chain, int64, error) {
	chain := j.chain
	at := max(j.now().UnixNano(), j.lastTime) // the log's time never runs back
	rows := batchRows{
		journal:  j,
		versions: make(map[RowID]uint64),
		at:       make(map[RowID]int),
	}

	var entries []owners.Entry
	for _, g := range groups {
		for _, c := range g.changes {
			e := owners.Entry{
				Seq:     chain.Seq + 1,
				Time:    at,
				Event:   c.Event,
				Actor:   c.Actor,
				Request: c.Request,
				Session: c.Session,
				Detail:  brief(c.Detail),
			}
			for _, w := range c.Rows {
				mark, err := rows.put(w)
				if err != nil {
					return Batch{}, chain, at, err
				}
				e.Rows = append(e.Rows, mark)
			}

			if err := chain.Append(e); err != nil {
				return Batch{}, chain, at, err
			}
			entries = append(entries, e)
		}
	}

	head, err := audit.Sign(j.key, chain, at)
	if err != nil {
		return Batch{}, chain, at, err
	}
	return Batch{Rows: rows.rows, Entries: entries, Head: head}, chain, at, nil
}

// batchRows are the rows of a batch. A row that several changes write has an entry's
// mark for each, with a version of its own, and is stored once, as the last of them
// has it.
type batchRows struct {
	journal  *Journal
	rows     []Row
	at       map[RowID]int    // row id to index in rows
	versions map[RowID]uint64 // that the batch gave so far
}

// put gives a row its next version, seals it, and returns what the log says of it.
func (b *batchRows) put(w Write) (owners.Row, error) {
	v, ok := b.versions[w.ID]
	if !ok {
		v = b.journal.marks[w.ID].version // only the committer, which this is, writes marks
	}
	v++
	b.versions[w.ID] = v

	row := Row{ID: w.ID, Version: v}
	mark := owners.Row{ID: string(w.ID), Version: v}
	if w.Plain != nil {
		sealed, err := b.journal.seal.Seal(w.ID, v, w.Plain)
		if err != nil {
			return mark, fmt.Errorf("seal row: %w", err)
		}
		row.Sealed = sealed
		mark.Hash = ident.Sum(sealed)
	}

	if i, ok := b.at[w.ID]; ok {
		b.rows[i] = row
	} else {
		b.at[w.ID] = len(b.rows)
		b.rows = append(b.rows, row)
	}
	return mark, nil
}

// maxDetail is the most bytes of one detail in the log, which anybody reads and
// nothing shortens: what a change is in full stands in its row.
const maxDetail = 1024

// brief cuts details that are too long.
func brief(detail map[string]string) map[string]string {
	var out map[string]string
	for key, text := range detail {
		if len(text) > maxDetail {
			if out == nil { // as good as never
				out = maps.Clone(detail)
			}
			out[key] = fmt.Sprintf("%s… (%d bytes in all)", strings.ToValidUTF8(text[:maxDetail], ""), len(text))
		}
	}
	if out == nil {
		return detail
	}
	return out
}
