// Package sysctl changes settings of the machine's kernel and puts back what it
// found, when the last one who needed the change has gone.
//
// It owns a folder that all Cupel installations of the machine share, since the
// settings are shared too: in it is written down which values were found before the
// first change, and who holds which setting. The folder belongs below /run: a reboot forgets both the changes
// and the record. A lock on the folder makes it safe between processes.
//
// It trusts the other holders, which are installations of the same machine. The file tells
// the rest: Hold, Remember, Release, and locked below all of them.
package sysctl
