// Package diskerror says of an error whether the disk is to blame for it: it is full, takes
// no writes, or fails. Whoever writes explains its errors here, so that people, and those
// who act on the rule, meet the same word for the same thing.
//
// It owns the rules of such disks (rules.go) and no state, and trusts what the kernel says
// about a file system. Safe for concurrent use. Read Explain in diskerror.go first.
package diskerror
