package storetest

import (
	"testing"

	"cupel.dev/cupel/internal/trusted/cas/journal"
)

func TestMemory(t *testing.T) {
	m := NewMemory()
	Run(t, func(*testing.T) (journal.Store, func()) { return m, func() {} })
}
