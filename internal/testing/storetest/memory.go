package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas/journal"
)

// Memory is a journal.Store for tests. Its fields may be changed under Lock, which
// is how tests play whoever owns the disk.
type Memory struct {
	sync.Mutex
	Rows map[journal.RowID]journal.Row
	Log  []owners.Entry
	Last owners.SignedHead

	// Fail is asked before each commit; an error refuses it.
	Fail func(journal.Batch) error

	// FailAfter is asked after each commit: its error is returned although the
	// commit was kept.
	FailAfter func(journal.Batch) error
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{Rows: map[journal.RowID]journal.Row{}} }

// Commit implements journal.Store.
func (m *Memory) Commit(_ context.Context, b journal.Batch) error {
	m.Lock()
	defer m.Unlock()

	if m.Fail != nil {
		if err := m.Fail(b); err != nil {
			return err
		}
	}

	if b.Head.Seq <= m.Last.Seq {
		return errors.New("the number is taken")
	}

	for _, r := range b.Rows {
		if r.Sealed == nil {
			delete(m.Rows, r.ID)
		} else {
			m.Rows[r.ID] = r
		}
	}

	m.Log = append(m.Log, b.Entries...)
	m.Last = b.Head

	if m.FailAfter != nil {
		return m.FailAfter(b)
	}

	return nil
}

// Head implements journal.Store.
func (m *Memory) Head(context.Context) (owners.SignedHead, error) {
	m.Lock()
	defer m.Unlock()
	return m.Last, nil
}

// Row implements journal.Store.
func (m *Memory) Row(_ context.Context, id journal.RowID) (journal.Row, bool, error) {
	m.Lock()
	defer m.Unlock()
	r, ok := m.Rows[id]
	return r, ok, nil
}

// Entries implements journal.Store.
func (m *Memory) Entries(_ context.Context, after uint64, limit int) ([]owners.Entry, error) {
	m.Lock()
	defer m.Unlock()

	var out []owners.Entry
	size := 0
	for _, e := range m.Log {
		if e.Seq > after && len(out) < limit && size < journal.PageBytes {
			out = append(out, e)
			text, err := json.Marshal(e)
			if err != nil {
				return nil, fmt.Errorf("marshal entry: %w", err)
			}
			size += len(text)
		}
	}

	return out, nil
}

// Copy is the store as it is now: what a restart finds.
func (m *Memory) Copy() *Memory {
	m.Lock()
	defer m.Unlock()

	c := NewMemory()
	for id, r := range m.Rows {
		c.Rows[id] = r
	}

	c.Log = slices.Clone(m.Log)
	c.Last = m.Last

	return c
}
