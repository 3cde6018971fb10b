package journal

import (
	"context"

	"cupel.dev/cupel/api/owners"
)

// RowID names a row of the CAS's state, as in session/shop: what kind it is of, and which.
type RowID string

// Row is one sealed row of the CAS's state. A nil Sealed in a Batch removes it.
type Row struct {
	ID      RowID
	Version uint64
	Sealed  []byte
}

// Batch is what one transaction changes: rows, the log entries that say so, and
// the signed head of the log after them.
type Batch struct {
	Rows    []Row
	Entries []owners.Entry
	Head    owners.SignedHead
}

// PageBytes is how much of the log a Store returns at once, as JSON: what strangers
// did stands there too, and whoever reads it holds a page in memory.
const PageBytes = 4 << 20

// Store keeps rows and the audit log. It is not trusted: rows are sealed, and
// what it returns is checked against the log. Methods are called concurrently,
// Commit never twice at once. storetest holds the suite that every
// implementation runs.
type Store interface {
	// Commit makes a batch durable as a whole or not at all. After an error,
	// Head tells which.
	Commit(ctx context.Context, b Batch) error
	// Head returns the head of the last batch; the zero head where there is none.
	Head(ctx context.Context) (owners.SignedHead, error)
	// Row returns a row, and false where there is none.
	Row(ctx context.Context, id RowID) (Row, bool, error)
	// Entries returns at most limit log entries after the given number, in order;
	// fewer where they are large, about PageBytes, and none where there are none.
	Entries(ctx context.Context, after uint64, limit int) ([]owners.Entry, error)
}

// Sealer encrypts rows before they reach a Store. The row's identity and version
// are authenticated with it, so that no row opens in another's place.
type Sealer interface {
	Seal(id RowID, version uint64, plain []byte) ([]byte, error)
	// Open returns a *problem.Error with the rule sealing_key or row_sealed
	// where the key is another or the bytes were changed.
	Open(id RowID, version uint64, sealed []byte) ([]byte, error)
}
