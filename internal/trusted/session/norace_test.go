//go:build !race

package session

const quickSize = MaxSize
