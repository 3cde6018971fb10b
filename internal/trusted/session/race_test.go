//go:build race

package session

// quickSize: under the race detector, which makes everything ten times slower, a
// shorter text has to do; `make test` runs this package without it too.
const quickSize = MaxSize / 16
