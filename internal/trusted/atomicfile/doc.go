// Package atomicfile puts small files in place whole: whoever reads one, and
// whoever looks after a crash, finds the old content or the new, never half.
//
// It owns nothing and trusts the file system's rename and link. Safe for
// concurrent use; of two writers of one file, the later one's content stays.
//
// Read atomicfile.go (writing), then read.go (reading without being held up by what is no
// file) and follow.go (where symbolic links lead).
package atomicfile
