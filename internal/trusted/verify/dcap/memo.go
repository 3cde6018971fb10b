package dcap

import (
	"container/list"
	"sync"
	"time"

	"cupel.dev/cupel/internal/trusted/sgxquote"

	"cupel.dev/cupel/internal/trusted/fieldhash"
)

// memo keeps verdicts, at most size of them, the least recently used falling
// out. Only good verdicts are kept, so that nobody without a certified platform
// can fill it.
type memo struct {
	mu    sync.Mutex
	size  int
	byKey map[[32]byte]*list.Element
	order *list.List // of memoEntry, most recently used first
}

type memoEntry struct {
	key [32]byte
	w   *verdict
}

func newMemo(size int) *memo {
	return &memo{size: size, byKey: map[[32]byte]*list.Element{}, order: list.New()}
}

// memoKey covers every byte that judge reads: all of the quote but header, body
// and their signature, and the collateral.
func memoKey(q *quote, endorsements []byte) (key [32]byte) {
	return fieldhash.Of(q.signatureData[sgxquote.SigLen:], endorsements)
}

// get returns a verdict that still holds at now.
func (m *memo) get(key [32]byte, now time.Time) (*verdict, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()

	e, ok := m.byKey[key]
	if !ok {
		return nil, false
	}

	w := e.Value.(memoEntry).w
	if now.Before(w.judged) || now.After(w.expires) {
		m.order.Remove(e)
		delete(m.byKey, key)
		return nil, false
	}
	m.order.MoveToFront(e)
	return w, true
}

func (m *memo) put(key [32]byte, w *verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()

	if e, ok := m.byKey[key]; ok {
		e.Value = memoEntry{key, w}
		m.order.MoveToFront(e)
		return
	}

	m.byKey[key] = m.order.PushFront(memoEntry{key, w})
	if m.order.Len() > m.size {
		oldest := m.order.Back()
		delete(m.byKey, oldest.Value.(memoEntry).key)
		m.order.Remove(oldest)
	}
}
