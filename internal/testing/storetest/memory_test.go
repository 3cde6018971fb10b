package storetest

import (
	"testing"

	"cupel.dev/cupel/internal/trusted/cas"
)

func TestMemory(t *testing.T) {
	m := NewMemory()
	Run(t, func(*testing.T) (cas.Store, func()) { return m, func() {} })
}
