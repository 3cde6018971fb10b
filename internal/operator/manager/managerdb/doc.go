// Package managerdb keeps the manager's state in SQLite.
//
// It owns the file: its schema, who may read it, and how many events are kept. Rows
// are JSON documents beside the few columns that are searched: the manager reads them
// once and holds them in memory. Among them are the tokens of grants, which are secrets
// of the operator's: the file is readable by its user alone. It trusts what it reads as
// far as the disk can be trusted: what can't be read is a refusal that says so.
//
// The database carries a schema version; newer ones are refused, older ones are
// migrated. One process opens it at a time (the state folder's lock sees to that); a DB
// is safe for concurrent use.
//
// All of it is in db.go: the schema, Open, errors, then the methods of manager.Store.
package managerdb
