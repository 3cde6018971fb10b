// Package casdb is the journal.Store on SQLite: one file in WAL mode, every commit
// synced to the disk before it returns.
//
// It is trusted with nothing but keeping bytes. One connection writes, a few
// others read; SQLite's snapshot isolation keeps them apart. One process alone has
// the file open. It carries a schema version; a newer one than this package knows is
// refused.
//
// A DB is safe for concurrent use, but for Commit, which one caller at a time makes.
// It is one file to read: casdb.go, from Open to Entries.
package casdb
