package sealed

import (
	"bytes"
	"io"
	"testing"
)

func BenchmarkSeal(b *testing.B) {
	text := random(64 << 20)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		w, err := NewSnapshotWriter(io.Discard, testKey, testID, 1)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	sealed, tag := seal(b, testKey, testID, 1, defaultChunk, random(64<<20))
	b.SetBytes(64 << 20)
	for b.Loop() {
		r, err := OpenSnapshot(bytes.NewReader(sealed), testKey, testID, 1, tag)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
	}
}
