// Package logfile keeps the output of an instance in rotating files of JSON
// lines, and reads it back while it grows.
//
// The writer is a process of its own, started by the instance's shim with the
// read ends of the instance's stdout and stderr: it outlives the daemon, so that
// a daemon that is killed leaves no hole. It holds a lock while it lives, by
// which its own death is noticed; Resume starts another one, and what is lost is
// at most what the dead one had read and not yet written. A folder holds the files
// 00000001.jsonl, 00000002.jsonl, …: the writer appends to the last one, starts
// the next when it is full and removes the oldest beyond those it keeps. No file
// is ever renamed, so a reader follows by number without a race. When the
// instance's output has ended, the writer leaves the file "end".
//
// One writer a folder; any number of readers, in any process.
//
// The folder is the node's alone: what else is found in the files' places was put there by
// accident, and is moved away or gone by.
//
// Read writer.go first (the files), then process.go and resume.go (the process that
// writes, and the next one), and reader.go.
package logfile
